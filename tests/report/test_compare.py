"""Comparisons of runs whose numbers can be worked out by hand."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import StringIO
from math import exp, expm1
from typing import Any

import numpy as np
import pytest
from pages import Page
from rich.console import Console
from synthetic import SYNTHETIC_JOB, SyntheticRun

from scaler.job import Job
from scaler.plan import make_plan
from scaler.report.compare.arms import Member
from scaler.report.compare.curves import TrainLoss, first_reached
from scaler.report.compare.html import render_comparison_html
from scaler.report.compare.markdown import render_comparison_markdown
from scaler.report.compare.measures import _difference
from scaler.report.compare.model import Comparison, Measure
from scaler.report.compare.summary import compare_runs
from scaler.report.compare.text import comparison_text
from scaler.report.page.shell import SCRIPTS
from scaler.report.run.model import Verdict

Golden = Callable[[str, str], None]
Make = Callable[..., Member]


@pytest.fixture
def make(digits: Callable[..., Job]) -> Make:
    """Make one run; ``values`` are fields of its records."""

    def member(
        run_id: str,
        *overrides: str,
        seed: int = 0,
        workers: int = 2,
        stop: int | None = None,
        eval_loss: float = 0.5,
        state: str = "succeeded",
        evals: Sequence[str] = ("loss",),
        startup_s: float = 0.0,
        **values: Any,
    ) -> Member:
        job = digits(*SYNTHETIC_JOB, f"train.seed={seed}", *overrides, workers=workers)
        run = SyntheticRun(job=job, plan=make_plan(job, workers), state=state).later(startup_s)
        run = run.attempt(0, world_size=workers, stop=stop, **values)
        if stop is None:
            for at, value in ((100, 2 * eval_loss), (200, eval_loss)):
                run = run.evaluated(at, **dict.fromkeys(evals, value))
        if state == "running":
            run = replace(run, wall_s=None)
        return Member(jobs=(job,), report=replace(run.report(), run_id=run_id))

    return member


def measure(comparison: Comparison, name: str, kind: str, **wanted: Any) -> Measure:
    """The only such number."""
    found = [m for m in comparison.measures if (m.name, m.kind) == (name, kind)]
    (only,) = [m for m in found if all(getattr(m, key) == value for key, value in wanted.items())]
    return only


def codes(comparison: Comparison) -> list[str]:
    return [note.code for note in comparison.notes]


def rendered(comparison: Comparison, *, width: int = 80) -> str:
    console = Console(file=StringIO(), width=width, highlight=False, markup=False, color_system=None)
    with console.capture() as captured:
        console.print(comparison_text(comparison))
    return "".join(f"{line.rstrip()}\n" for line in captured.get().rstrip().split("\n"))


# Arms


def test_runs_that_differ_in_seed_name_and_place_alone_are_repeats(make: Make) -> None:
    found = compare_runs(
        [
            make("r0"),
            make("r1", "reference.lr=0.02"),
            make("r2", "storage=elsewhere", "name=other", seed=1),
            make("r3", "reference.lr=0.02", seed=7),
        ]
    )
    assert [(arm.label, arm.run_ids) for arm in found.arms] == [("A", ("r0", "r2")), ("B", ("r1", "r3"))]
    assert [(change.key, change.base, change.value) for change in found.arms[1].changes] == [
        ("reference.lr", "0.01", "0.02")
    ]
    assert [(run.run_id, run.arm, run.seed) for run in found.runs] == [
        ("r0", "A", 0),
        ("r1", "B", 0),
        ("r2", "A", 1),
        ("r3", "B", 7),
    ]


def test_a_run_that_went_on_with_another_job_is_no_repeat_of_one_that_did_not(make: Make) -> None:
    kept, changed = make("r0"), make("r1")
    lower = make("r2", "reference.lr=0.005").jobs[0]
    found = compare_runs([kept, replace(changed, jobs=(*changed.jobs, lower))])
    assert [arm.run_ids for arm in found.arms] == [("r0",), ("r1",)]
    assert [change.key for change in found.arms[1].changes] == ["reference.lr"]


def test_a_repeat_that_was_resumed_is_a_repeat(make: Make) -> None:
    kept, resumed = make("r0"), make("r1", seed=1)
    again = make("r2", "tracking.mlflow={uri: 'http://host:5000'}", seed=1).jobs[0]
    for jobs in ((*resumed.jobs, *resumed.jobs), (*resumed.jobs, again)):
        found = compare_runs([kept, replace(resumed, jobs=jobs)])
        assert [arm.run_ids for arm in found.arms] == [("r0", "r1")]


def test_a_run_that_was_changed_and_set_back_shows_what_was_changed(make: Make) -> None:
    plain, back = make("r0"), make("r1", seed=1)
    lower = make("r2", "reference.lr=0.005", seed=1).jobs[0]
    back = replace(back, jobs=(*back.jobs, lower, *back.jobs))
    for pair in ((plain, back), (back, plain)):
        _, other = compare_runs(pair).arms
        assert [change.key for change in other.changes] == ["reference.lr"]


def test_repeats_alone_are_one_arm_and_nothing_is_judged(make: Make) -> None:
    found = compare_runs([make("r0", loss=1.0), make("r1", seed=1, loss=3.0)])
    loss = measure(found, "train_loss", "end")
    assert (loss.arms[0].mean, loss.arms[0].repeats, loss.differences) == (pytest.approx(3**0.5), 2, ())
    assert loss.arms[0].spread == pytest.approx(2**0.5)
    assert codes(found) == ["one_arm", "no_common_loss"]  # of a loss that never falls


# Noise


def test_a_difference_is_judged_by_the_spread_of_repeats(make: Make) -> None:
    def losses(arm: str, *values: float) -> list[Member]:
        overrides = () if arm == "a" else ("reference.lr=0.02",)
        return [make(f"{arm}{seed}", *overrides, seed=seed, loss=value) for seed, value in enumerate(values)]

    # Three each, whose logarithms have a variance of 0.01: 2.776 x sqrt(0.02 / 3) = 0.2267, on either side of it. With
    # the normal quantile, 1.96 x 0.0816 = 0.16, the interval would leave 0 out: what lies between has too few repeats.
    for gap, is_beyond, why in ((0.15, False, None), (0.22, None, "too_few_repeats"), (0.24, True, None)):
        spread = (0.9, 1.0, 1.1)
        found = compare_runs([*losses("a", *map(exp, spread)), *losses("b", *(exp(x + gap) for x in spread))])
        loss = measure(found, "train_loss", "end")
        change = loss.difference("B")
        assert (loss.scale, loss.arms[0].mean) == ("log", pytest.approx(exp(1.0)))
        assert change.change == pytest.approx(exp(1.0) * expm1(gap))
        assert change.change_pct == pytest.approx(100 * expm1(gap))
        assert (change.low_pct, change.high_pct) == pytest.approx(
            (100 * expm1(gap - 0.2267), 100 * expm1(gap + 0.2267)), rel=1e-3
        )
        assert (change.margin, change.margin_pct) == (None, None)
        assert (change.is_beyond_noise, change.not_judged) == (is_beyond, why)


def test_a_loss_that_is_eight_times_as_high_is_not_within_the_noise(make: Make) -> None:
    """Two repeats that spread by half: +800 % ± 1,128 on a linear scale, which was called within the noise."""

    def runs(arm: str, *losses: float) -> list[Member]:
        overrides = () if arm == "a" else ("reference.lr=0.02",)
        return [
            make(f"{arm}{seed}", *overrides, seed=seed, loss=loss, eval_loss=loss) for seed, loss in enumerate(losses)
        ]

    found = compare_runs([*runs("a", 0.1, 0.11), *runs("b", 0.5, 1.3)])
    change = measure(found, "eval.loss", "end").difference("B")
    assert (change.is_beyond_noise, change.not_judged) == (None, "too_few_repeats")
    assert found.finding.startswith(
        "Arm B against arm A: too few repeats to tell whether the eval loss differs, 7.7 times ("
    )
    note = next(note for note in found.notes if note.code == "too_few_repeats")
    assert note.message.startswith("Too few repeats to tell whether the arms differ in train loss, eval loss: ")
    assert note.next == "Repeat both arms with new seeds: scaler submit JOB --set train.seed=2."
    assert "too few repeats" in rendered(found)
    assert "within noise" not in next(line for line in rendered(found).splitlines() if line.startswith("  eval loss "))

    found = compare_runs([*runs("a", 0.1, 0.11), *runs("b", 0.8, 0.9)])
    assert measure(found, "eval.loss", "end").difference("B").is_beyond_noise is True
    assert found.finding.startswith("Arm B against arm A: the eval loss differs beyond the noise, 8.1 times (")


@pytest.mark.parametrize("spread", [0.05, 0.3, 0.6])
def test_an_eightfold_loss_is_never_called_within_the_noise(spread: float) -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        base, other = np.exp(spread * random.standard_normal((2, 2)))
        values = (base.tolist(), (8 * other).tolist())
        found = _difference("B", *values, is_percent=False, is_log=True, is_comparable=True)
        assert found.is_beyond_noise or found.not_judged == "too_few_repeats"


def test_losses_that_are_not_all_above_0_are_judged_as_they_are(make: Make) -> None:
    found = compare_runs(
        [make("a0", loss=-1.0), make("a1", seed=1, loss=-1.2), make("b0", "reference.lr=0.02", loss=0.5)]
    )
    loss = measure(found, "train_loss", "end")
    assert (loss.scale, loss.arms[0].mean) == ("linear", pytest.approx(-1.1))
    change = loss.difference("B")
    assert change.margin is not None
    assert (change.low, change.high) == pytest.approx((1.6 - change.margin, 1.6 + change.margin))


def test_what_differs_by_rounding_alone_is_the_same(make: Make) -> None:
    found = compare_runs(
        [
            make("a0", loss=1.0),
            make("a1", seed=1, loss=1.0 + 1e-15),
            make("b0", "reference.lr=0.02", loss=1.0 + 5e-8),  # as of float32 in another order
        ]
    )
    change = measure(found, "train_loss", "end").difference("B")
    assert (change.change, change.change_pct, change.not_judged) == (0.0, 0.0, "no_spread")
    assert "the eval loss is the same" in found.finding


def test_without_repeats_it_says_so_and_what_to_type(make: Make) -> None:
    found = compare_runs([make("r0", seed=3, loss=1.0), make("r1", "reference.lr=0.02", loss=2.0)])
    change = measure(found, "train_loss", "end").difference("B")
    assert (change.change, change.margin, change.is_beyond_noise) == (1.0, None, None)
    assert change.not_judged == "no_repeats"
    note = found.notes[0]
    assert note.code == "no_repeats"
    assert "scaler submit JOB --set train.seed=4" in note.next


def test_repeats_of_one_seed_are_repeats_of_the_speed_alone(make: Make) -> None:
    slow = {"step_time_s": 0.25}
    found = compare_runs(
        [
            make("a0", loss=1.0),
            make("a1", loss=1.0001, step_time_s=0.126),
            make("b0", "reference.lr=0.02", loss=1.01, **slow),
        ]
    )
    loss, time = measure(found, "train_loss", "end"), measure(found, "step_time", "speed")
    assert (loss.arms[0].repeats, loss.difference("B").not_judged) == (1, "no_repeats")
    assert (time.arms[0].repeats, time.difference("B").is_beyond_noise) == (2, True)
    assert "one_seed" in codes(found)


def test_repeats_that_agree_to_the_last_digit_show_no_spread(make: Make) -> None:
    found = compare_runs([make("a0"), make("a1", seed=1), make("b0", "reference.lr=0.02", loss=3.0)])
    assert measure(found, "train_loss", "end").difference("B").not_judged == "no_spread"


# Places


def test_runs_of_different_lengths_are_compared_where_all_have_been_with_a_note(make: Make) -> None:
    def falling(rank: int, seen: int) -> float:
        return 4.0 - seen / 100

    runs = [make("a0", loss=falling), make("a1", seed=1, loss=lambda r, s: falling(r, s) + 0.1)]
    runs.append(make("b0", "reference.lr=0.02", stop=96, state="stopped", loss=lambda r, s: falling(r, s) + 0.5))
    found = compare_runs(runs)
    assert found.common_samples == 96
    end = measure(found, "train_loss", "end").difference("B")
    assert (end.is_beyond_noise, end.not_judged) == (None, "different_lengths")
    assert measure(found, "train_s", "speed").difference("B").not_judged == "different_lengths"
    there = measure(found, "train_loss", "at_samples", at=96.0)
    # The window is 5 of 96 samples, in the step of 16 from 80 on: 4 - 0.8.
    assert there.arms[0].values == pytest.approx((3.2, 3.3))
    assert there.difference("B").change == pytest.approx(3.7 - (3.2 * 3.3) ** 0.5)
    assert there.difference("B").not_judged == "too_few_repeats", "two of one arm say little of the spread"
    assert codes(found)[:2] == ["not_succeeded", "different_lengths"]
    assert "b0 was stopped" in found.notes[0].message


def test_arms_of_one_length_are_judged_beside_one_of_another(make: Make) -> None:
    def runs(arm: str, *overrides: str) -> list[Member]:
        return [make(f"{arm}{seed}", *overrides, seed=seed, loss=2.0 + 0.1 * seed, step_time_s=0.125 + 0.01 * seed)
                for seed in range(2)]  # fmt: skip

    long = runs("b", "train.epochs=4")
    found = compare_runs([*runs("a"), *long, *runs("c", "reference.lr=0.02")])
    assert [run.samples_seen for run in found.runs] == [200, 200, 400, 400, 200, 200]
    for name, kind in (("train_loss", "end"), ("train_s", "speed")):
        both = measure(found, name, kind)
        assert both.difference("B").not_judged == "different_lengths"
        assert both.difference("C").is_beyond_noise is False
    assert "judged only between arms of equal length" in next(n.message for n in found.notes if "length" in n.code)


def test_a_start_that_took_longer_moves_no_number_but_its_own(make: Make) -> None:
    def loss(rank: int, seen: int) -> float:
        return 3.0 - seen / 100

    found = compare_runs([make("a0", loss=loss), make("b0", "reference.lr=0.02", loss=loss, startup_s=2.5)])
    timed = [m for m in found.measures if m.kind == "at_time" or (m.kind, m.unit) == ("reached", "s")]
    assert len(timed) == 10
    assert [m.name for m in timed if m.differences[0].change not in (None, pytest.approx(0.0, abs=1e-9))] == []
    startup = measure(found, "startup", "speed")
    assert [values.mean for values in startup.arms] == [0.0, 2.5]
    assert found.common_elapsed_s == pytest.approx(14 * 0.125, rel=0.1)
    for text in (rendered(found), render_comparison_markdown(found), Page(render_comparison_html(found)).text):
        assert "from the first step on" in text


def test_a_run_that_never_learned_sets_no_target(make: Make) -> None:
    def falling(rank: int, seen: int) -> float:
        return 2.0 - seen / 200

    sizes: dict[str, Any] = {"workers": 4}
    runs = [make("a0", loss=falling), make("b0", "reference.lr=0.02", loss=falling, **sizes)]
    assert compare_runs(runs).speedups[0].time_speedup is not None
    bad = make("c0", "reference.lr=9", loss=lambda rank, seen: 3.0 + seen / 100, workers=4)
    found = compare_runs([*runs, bad])
    assert [m for m in found.measures if m.kind == "reached" and m.name == "train_loss"] == []
    assert [(s.time_speedup, s.samples_ratio) for s in found.speedups] == [(None, None)] * 2
    note = next(note for note in found.notes if note.code == "no_common_loss")
    assert note.message == (
        "The lowest train loss of run c0 is 3, and runs a0, b0, c0 started at or below this loss: samples and "
        "time to a common loss cannot be compared."
    )
    assert note.next == "Compare the other runs without run c0."


def test_an_evaluation_that_a_run_lacks_is_named(make: Make) -> None:
    found = compare_runs([make("a0", evals=("loss", "f1")), make("b0", "reference.lr=0.02", evals=("loss", "auc"))])
    assert {m.name for m in found.measures if m.kind == "end"} == {"train_loss", "eval.loss"}
    note = next(note for note in found.notes if note.code == "evals_not_shared")
    assert note.message == (
        "Values that some runs lack are not compared: eval auc (not in run a0); eval f1 (not in run b0)."
    )


def test_a_run_that_goes_on_is_compared_up_to_where_it_is(make: Make) -> None:
    def loss(rank: int, seen: int) -> float:
        return 3.0 - seen / 100

    on = make("b0", "reference.lr=0.02", loss=loss, stop=96, state="running")
    found = compare_runs([make("a0", loss=loss), on])
    assert found.common_samples == 96
    assert measure(found, "train_loss", "at_samples", at=96.0).difference("B").change == pytest.approx(0.0)
    assert found.common_elapsed_s == pytest.approx(6 * 0.125)
    assert measure(found, "wall_s", "speed").difference("B").not_judged == "not_known"
    assert "b0 is running: the numbers are of the steps that were trained." in [note.message for note in found.notes]
    rendered(found)
    render_comparison_html(found)


def test_how_far_it_was_to_a_common_loss(make: Make) -> None:
    def loss(speed: float) -> Callable[[int, int], float]:
        return lambda rank, seen: 3.0 - speed * seen / 100

    found = compare_runs([make("a0", loss=loss(1.0)), make("b0", "reference.lr=0.02", loss=loss(2.0))])
    samples = measure(found, "train_loss", "reached", unit="samples")
    time = measure(found, "train_loss", "reached", unit="s")
    # The slower run's least is that of its last 10 samples, 4 of them at 1.04 and 6 at 1.2: 1.136, rounded up.
    assert samples.at == time.at == pytest.approx(1.2)
    slow, fast = samples.arms[0].mean, samples.arms[1].mean
    assert slow is not None
    assert fast is not None
    assert 180 <= slow <= 200
    assert 90 <= fast <= 112
    assert time.arms[0].mean == pytest.approx(slow / 16 * 0.125, rel=0.1)


def test_a_training_loss_is_the_mean_over_the_window_that_ends_there(make: Make) -> None:
    report = make("r0", loss=lambda rank, seen: float(seen)).report
    line = TrainLoss.of(report, window=24)
    # Up to 32: all of the step at 16, and 8 of the 16 samples of the step at 0.
    assert line.at(32.0) == pytest.approx((16 * 16 + 8 * 0) / 24)
    assert line.at(8.0) == 0.0
    assert (line.at(0.0), line.at(201.0)) == (None, None)


def test_where_values_come_down_to_a_target() -> None:
    values = [3.0, None, 1.0]
    assert first_reached([10, 20, 30], values, 2.0, is_line=True) == 20.0
    assert first_reached([10, 20, 30], values, 2.0, is_line=False) == 30.0
    assert first_reached([10, 20, 30], values, 0.5, is_line=True) is None
    assert first_reached([10, 20, 30], values, 3.0, is_line=True) == 10.0


def test_what_more_workers_bought(make: Make) -> None:
    # 16 a step in 0.125 s against 32 in 0.16 s; each epoch's last step is short in both.
    found = compare_runs([make("a0", workers=2), make("b0", workers=4, step_time_s=0.16)])
    (speedup,) = found.speedups
    speeds = [200 / (14 * 0.125), 200 / (8 * 0.16)]
    assert speedup.world_size == 4
    assert speedup.speedup == pytest.approx(speeds[1] / speeds[0], rel=1e-6)
    assert speedup.efficiency == pytest.approx(speedup.speedup / 2)
    assert compare_runs([make("a0"), make("b0", "reference.lr=0.02")]).speedups == ()


def test_a_run_without_a_step_is_named_and_leaves_no_common_place(make: Make) -> None:
    found = compare_runs([make("a0"), make("b0", "reference.lr=0.02", stop=0, state="failed")])
    assert codes(found)[:2] == ["without_steps", "not_succeeded"]
    assert {m.kind for m in found.measures} == {"end", "speed"}
    assert measure(found, "train_loss", "end").difference("B").not_judged == "not_known"
    rendered(found)
    render_comparison_html(found)


# Damage


def damaged(member: Member, code: str) -> Member:
    """A run of whose records, or events, some are missing: its report is of the rest."""
    damage = Verdict(code=code, rank=None, message="Some of it cannot be read.", evidence="", next="")
    return replace(member, report=replace(member.report, verdicts=(damage, *member.report.verdicts)))


def test_what_damaged_records_would_say_is_not_known(make: Make) -> None:
    def runs(*more: Member) -> Comparison:
        return compare_runs([make("a0", loss=1.0), *more, make("b0", "reference.lr=0.02", loss=1.5)])

    alone = runs()
    # Half of its records are gone: what is left says another loss, another length and another speed.
    half = damaged(make("a1", seed=1, loss=9.0, step_time_s=2.0, stop=96), "records_unreadable")
    found = runs(half)
    assert found.arms[0].run_ids == ("a0", "a1")
    assert (found.common_samples, found.common_elapsed_s) == (alone.common_samples, alone.common_elapsed_s)
    before = {(m.name, m.kind, m.at, m.unit): m for m in alone.measures}
    for now in found.measures:
        was = before[now.name, now.kind, now.at, now.unit]
        if now.name in ("wall_s", "attempts", "startup"):
            assert None not in now.arms[0].values
        else:
            assert (now.arms[0].values, now.arms[0].mean) == ((was.arms[0].mean, None), was.arms[0].mean)
            assert (now.arms[0].repeats, now.differences[0].margin) == (was.arms[0].repeats, None)
    note = found.notes[0]
    assert note.code == "records_missing"
    assert note.message == (
        "Files are damaged: of run a1, Some of it cannot be read. The numbers from the records of this "
        "run are left out."
    )
    assert "different_lengths" not in codes(found)
    assert found.runs[1].samples_seen == 96
    assert "a1: succeeded, 2 workers, seed 1, 96 samples, records_unreadable" in rendered(found)
    render_comparison_html(found)


def test_evaluations_outlive_the_records_and_not_the_events(make: Make) -> None:
    for code, values in (("records_unreadable", (0.5, 0.25)), ("events_missing", (0.5, None))):
        runs = [make("a0"), damaged(make("a1", seed=1, eval_loss=0.25), code), make("b0", "reference.lr=0.02")]
        found = compare_runs(runs)
        assert measure(found, "eval.loss", "end").arms[0].values == values
        assert measure(found, "wall_s", "speed").arms[0].values == (10.5, 10.5)
        attempts = measure(found, "attempts", "speed").arms[0].values
        assert attempts == (1.0, 1.0 if code == "records_unreadable" else None)


def test_runs_of_which_nothing_is_whole_are_compared_all_the_same(make: Make) -> None:
    runs = [damaged(make(name, f"reference.lr={lr}"), "events_missing") for name, lr in (("a0", 0.1), ("b0", 0.2))]
    found = compare_runs(runs)
    assert (found.common_samples, found.common_elapsed_s, found.speedups) == (0, None, ())
    assert {m.difference("B").not_judged for m in found.measures} == {"not_known", "no_repeats"}
    rendered(found)
    render_comparison_html(found)


# Renderings


@pytest.fixture
def compared(make: Make) -> Comparison:
    def loss(speed: float, offset: float) -> Callable[[int, int], float]:
        return lambda rank, seen: 2.0 / (1 + speed * seen / 100) + offset

    runs = [
        make(
            f"digits-20260101-12000{seed}-aaaa",
            seed=seed,
            loss=loss(1.0, at),
            step_time_s=0.125 + at,
            eval_loss=0.5 + at,
        )
        for seed, at in enumerate((0.0, 0.01, 0.02))
    ]
    runs += [
        make(
            f"digits-20260101-12010{seed}-bbbb",
            "reference.lr=0.02",
            seed=seed,
            workers=4,
            loss=loss(2.0, at),
            step_time_s=0.13 + at,
            eval_loss=0.4 + at,
        )
        for seed, at in enumerate((0.0, 0.01))
    ]
    return compare_runs(runs)


def test_the_comparison_in_the_terminal(compared: Comparison, golden: Golden) -> None:
    golden("compare.txt", rendered(compared))


def test_the_comparison_in_markdown(compared: Comparison, golden: Golden) -> None:
    golden("compare.md", render_comparison_markdown(compared))


def test_no_line_is_wider_than_80_columns(make: Make) -> None:
    hostile = "x" * 90
    found = compare_runs(
        [
            make(f"{hostile}-1", f"recipe_args={{note: {hostile}}}", loss=1e-12, step_time_s=12345.678),
            make(f"{hostile}-2", loss=123456789.123, step_time_s=1e-5, seed=4294967295),
            make(f"{hostile}-3", loss=987654321.987, step_time_s=2e-5, seed=1),
        ]
    )
    assert max(map(len, rendered(found).splitlines())) <= 80


def test_titles_are_whole_and_a_name_goes_on_indented(make: Make) -> None:
    found = compare_runs(
        [
            make("a0", loss=lambda rank, seen: 2e9 - 4e6 * seen),
            make("a1", seed=1, loss=lambda rank, seen: 2e9 - 5e6 * seen),
            make("b0", "reference.lr=0.02", loss=lambda rank, seen: 1.9e9 - 4e6 * seen),
        ]
    )
    lines = rendered(found).splitlines()
    for title in ("At the end", "To a common loss, from the first step on", "Speed and cost"):
        assert title in lines
    at = next(place for place, line in enumerate(lines) if line.startswith("  samples to"))
    assert lines[at + 1].startswith("    ")
    assert not lines[at + 1].startswith("     ")


def test_the_page_has_the_numbers_and_a_line_for_each_run(compared: Comparison) -> None:
    page = Page(render_comparison_html(compared))
    assert page.headings == ["Differences", "Arms", "Curves", "Numbers"]
    assert [figure["aria-labelledby"] for figure in page.all("figure")] == ["chart-0-title", "chart-1-title"]
    assert page.text.index("train loss mean over the last") < page.text.index("eval loss Log scale")
    assert [len(chart["lines"]) for chart in page.data["charts"]] == [5, 5]
    assert {line["style"] for line in page.data["charts"][0]["lines"]} == {"series-0", "series-1"}
    assert "Beyond the noise:" in page.text
    assert [field["value"] for field in page.all("input")] == ["samples", "time"]
    assert not [element for element in page.elements if {"src", "srcset"} & set(element[1])]
    assert [link["href"] for link in page.all("link")] == ["data:,"]


def test_names_that_hold_markup_are_text(make: Make) -> None:
    name = "<script>alert(1)</script>\u202e|*x*"
    found = compare_runs([make(name), make("other", f"recipe_args={{note: {json.dumps(name)}}}")])
    page = Page(render_comparison_html(found))
    assert len(page.all("script")) == 1 + len(SCRIPTS)  # the data and the page's own
    assert "<script>alert(1)</script>\\u202e" in page.text
    assert "<script" not in render_comparison_markdown(found)
    assert "\u202e" not in rendered(found) + render_comparison_markdown(found) + render_comparison_html(found).replace(
        "\\u202e", ""
    )


def test_json_has_it_all(compared: Comparison) -> None:
    values = json.loads(json.dumps(compared.to_dict(), allow_nan=False))
    assert values["schema_version"] == 1
    assert {"runs", "arms", "measures", "speedups", "curves", "notes", "common_samples", "level"} < set(values)
