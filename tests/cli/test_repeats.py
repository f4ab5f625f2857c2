"""A run that has failed twice with one error of its recipe is not started again by what starts runs without looking."""

from dataclasses import replace
from typing import Any

import pytest
from in_process import Scaler
from run_folders import write_run
from synthetic import DIGITS, SYNTHETIC_JOB, SyntheticRun

from scaler.api.repeats import repeated_problem

BOOM = "ValueError: a sample of length 0"


@pytest.fixture
def run(synthetic_run: SyntheticRun) -> SyntheticRun:
    return synthetic_run.attempt(0, stop=32).failed(0, BOOM)


def again(run: SyntheticRun, problem: str, **options: Any) -> SyntheticRun:
    """The run, resumed and failed."""
    return run.resumed(0, **options).attempt(1, stop=32).failed(1, problem)


def test_the_same_error_in_the_last_two_starts_is_a_repeat(run: SyntheticRun) -> None:
    cases = {
        "failed once": (run, None),
        "the same error on another rank": (again(run, BOOM), BOOM),
        "the second of two workers that failed": (again(run, "KeyError: 'x'").failed(0, BOOM), BOOM),
        "another error": (again(run, "KeyError: 'x'"), None),
        "resumed and not failed since": (again(run, BOOM).resumed(0), None),
        "another error between": (again(again(run, "KeyError: 'x'"), BOOM), None),
        "a changed job": (again(run, BOOM, changes=[["train.seed", "0", "1"]]), None),
        "a lost peer": (run.resumed(0).attempt(1, stop=32).failed(1, BOOM, by_peer=True), None),
        "an error of the cluster": (again(again(run, "ClusterError: x"), "ClusterError: x"), None),
    }
    assert {name: repeated_problem(case.events) for name, (case, _) in cases.items()} == {
        name: expected for name, (_, expected) in cases.items()
    }


def test_a_run_that_would_fail_again_ends_with_the_recorded_error(scaler_command: Scaler, run: SyntheticRun) -> None:
    folder = write_run("runs", "mine", replace(again(run, BOOM), state="failed"))
    before = folder.read("events.jsonl")
    options = [part for value in SYNTHETIC_JOB for part in ("--set", value)]
    submit = ("submit", DIGITS, "--run-id", "mine", "--address", "none", *options)
    assert scaler_command(*submit) == (
        4,
        "",
        f"Error: run mine has failed twice with the same error, and is not started again: {BOOM}\n"
        "  The traceback: scaler status mine\n"
        "  When the cause is removed, start it with --even-if-stopped.\n",
    )
    assert folder.read("events.jsonl") == before
    for change in ("--even-if-stopped", "--set=train.epochs=1"):  # both are refused later, for another reason
        assert scaler_command(*submit, change).code == 2
