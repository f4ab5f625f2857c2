"""``scaler probe`` with one worker in this process: places, branches, the schedule, and what is refused."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from in_process import Outcome, command_line

from scaler.job.load import load_job
from scaler.plan import make_plan
from scaler.report.probe.model import ProbeCost, ProbedPlace, ProbeReport, TriedBatch, answer, paste
from scaler.report.probe.text import probe_markdown
from scaler.runs import RunState, list_runs

JOB = "jobs/digits/job.yaml"
SHORT = ("--workers", "1", "--set", "train.epochs=1", "--set", "reference.lr=0.03", "--samples", "256")
PLACES = (*SHORT, "--at", "0.3,0.6", "--seeds", "1", "--most", "2")

Probe = Callable[..., Outcome]


@pytest.fixture
def probe(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, digits_path: Path, tmp_path: Path
) -> Iterator[Probe]:
    """Run the command at the repository's root; its runs go to the test's own folder."""
    with command_line(capsys, monkeypatch, digits_path.parents[2]) as command:
        yield lambda *arguments: command("probe", *arguments, "--address", "none", "--set", f"storage={tmp_path}/runs")


def test_a_probe_from_end_to_end_is_found_again_and_its_schedule_is_a_plan(
    probe: Probe, tmp_path: Path, digits_path: Path
) -> None:
    page = tmp_path / "page.html"
    code, out, err = probe(JOB, *PLACES, "--json", "--html", page)
    assert code == 0, err
    found = json.loads(out)
    assert f"Written: {page}\n" in err
    assert err.startswith("Probe of digits: batch 16 to 32 with rule linear, at 29%, 59% of the training; branches of ")
    assert [place["samples_seen"] for place in found["places"]] == [416, 848]  # where steps of 16 begin
    for place in found["places"]:
        tried = place["tried"]
        assert [one["multiple"] for one in tried] == [1, 2]
        assert [len(one["losses"]) for one in tried] == [1, 1]
        assert place["global_batch_size"] == 16 * place["holds"]
        assert [one["lr"] for one in tried] == pytest.approx([0.03 * one["multiple"] for one in tried])
    assert found["hints"][-1].startswith("With one seed the noise is not known")
    cost = found["cost"]
    branches = sum(len(one["losses"]) for place in found["places"] for one in place["tried"])
    assert (cost["branches"], cost["branch_samples"], cost["base_samples"]) == (branches, 256 * branches, 848)
    assert cost["samples_share"] == pytest.approx((256 * branches + 848) / 1437)
    runs = list_runs(f"{tmp_path}/runs")
    assert len(runs) == branches + 2  # two stretches of the run
    assert "<title>" in page.read_text()
    # The same command trains nothing, and shows the same; a branch that was interrupted continues in its folder.
    again, repeated, _ = probe(JOB, *PLACES, "--json")
    assert (again, json.loads(repeated)) == (0, found)
    runs[-1].set_state(RunState.STOPPED)
    again, repeated, err = probe(JOB, *PLACES, "--json")
    assert (again, json.loads(repeated)["places"]) == (0, found["places"]), err
    assert runs[-1].state() is RunState.SUCCEEDED
    assert len(list_runs(f"{tmp_path}/runs")) == len(runs)


def test_the_checkpoints_of_a_run_are_probed_or_named_where_they_are_gone(
    probe: Probe,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    digits_path: Path,
) -> None:
    with command_line(capsys, monkeypatch, digits_path.parents[2]) as command:
        batch = ("--set", "scale.global_batch_size=32", "--set", "checkpoint.every={samples: 719}")
        here = ("--address", "none", "--set", f"storage={tmp_path}/runs", "--quiet")
        assert command("submit", JOB, *SHORT[:6], *batch, *here).code == 0
    (run,) = list_runs(f"{tmp_path}/runs")
    code, out, err = probe(run.uri, *SHORT[6:], "--seeds", "2", "--most", "2", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["run_id"], found["global_batch_size"], found["cost"]["base_samples"]) == (run.run_id, 32, 0)
    assert [place["samples_seen"] for place in found["places"]] == [736]
    assert [len(one["losses"]) for one in found["places"][0]["tried"]] == [2, 2]
    code, _, err = probe(run.uri, *SHORT[6:], "--at", "0.3")
    assert code == 5
    assert err == (
        f"Error: run {run.run_id} has no checkpoint near 30% of its training; it has 736, 1,437.\n"
        "  A run keeps its newest checkpoints only (checkpoint.keep). Probe the job instead, which trains to the "
        "places: scaler probe JOB\n"
        "  Or train with more of them: --set checkpoint.keep=100\n"
    )


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (("--at", "0.5,soon"), 2, "--at 0.5,soon is not a list of shares.\n  Such as --at 0.1,0.5,0.9."),
        (("--at", "1.5"), 2, "--at 1.5 is not a share of the training.\n  Such as --at 0.1,0.5,0.9."),
        (("--resolution", "0.5"), 2, "--resolution 0.5 is not a ratio of at least 1.\n  Such as 1.25."),
        (
            ("--samples", "30000"),
            2,
            "a branch of 30,000 samples does not fit into a training of 21,555.\n  Give fewer --samples.",
        ),
        (
            ("--samples", "100"),
            2,
            "a branch of 100 samples has 6 steps of 16, and with twice the batch it needs 4.\n"
            "  Give at least --samples 128, or train longer.",
        ),
        (
            ("--samples", "512", "--most", "16"),
            2,
            "--most 16 leaves a branch of 512 samples fewer than 4 steps of 256.\n  Give --samples 1024, or --most 8.",
        ),
        (
            ("--set", "scale.rule=adascale"),
            2,
            "scale.rule = adascale measures progress, and a probe compares losses after the same samples.\n"
            "  Probe with another rule: --set scale.rule=linear",
        ),
        (
            ("--set", "schedule.warmup={steps: 10}"),
            2,
            "the global batch is 16 samples now and was 256, which would change the schedule.\n"
            "  schedule.warmup = {steps: 10, start: base, shape: linear}: 2,461 samples so far, 160 samples now.",
        ),
    ],
)
def test_what_cannot_be_probed_is_refused_before_anything_runs(
    probe: Probe, tmp_path: Path, arguments: tuple[str, ...], code: int, error: str
) -> None:
    found, out, err = probe(JOB, *arguments)
    assert (found, out) == (code, "")
    assert error in err
    assert list_runs(f"{tmp_path}/runs") == []


def test_a_name_that_is_no_job_is_looked_for_among_the_runs(probe: Probe, tmp_path: Path) -> None:
    code, _, err = probe("digits-20260101-120000-7f3a", "--storage", f"{tmp_path}/none")
    assert code == 5
    assert "there is no run digits-20260101-120000-7f3a" in err


def made(*places: tuple[int, int, int | None]) -> ProbeReport:
    """A report with places: samples, largest multiple that holds, first that fails."""
    rows = tuple(
        ProbedPlace(
            samples_seen=samples,
            share=samples / 21555,
            run_id="digits-probe-1",
            tolerance=0.01,
            holds=holds,
            fails=fails,
            global_batch_size=16 * holds,
            fails_batch=None if fails is None else 16 * fails,
            noise_scale=None,
            tried=(
                TriedBatch(multiple=1, global_batch_size=16, lr=0.03, loss=0.5, losses=(0.5,), run_ids=("a",)),
                TriedBatch(multiple=2, global_batch_size=32, lr=0.06, loss=None, losses=(None,), run_ids=("b",)),
            ),
        )
        for samples, holds, fails in places
    )
    cost = ProbeCost(
        run_samples=21555, run_s=2.0, base_samples=0, base_s=0.0, branches=8, branch_samples=10776, branch_s=1.0
    )
    return ProbeReport(
        schema_version=1,
        name="digits",
        run_id=None,
        loss="eval loss",
        world_size=2,
        global_batch_size=16,
        rule="linear",
        seeds=3,
        steps_samples=2156,
        total_samples=21555,
        most=33,
        resolution=1.25,
        places=rows,
        cost=cost,
        hints=(),
    )


def test_the_schedule_that_is_printed_can_be_pasted(digits_path: Path) -> None:
    lines = paste(made((2141, 4, 5), (10763, 4, 8), (19385, 16, None)))
    assert lines is not None
    scale = yaml.safe_load(lines)["scale"]
    job = load_job(digits_path, overrides=[f"scale.{key}={json.dumps(value)}" for key, value in scale.items()])
    phases = make_plan(job).phases
    assert [(phase.start_samples, phase.global_batch_size) for phase in phases] == [(0, 16), (2141, 64), (19385, 256)]
    assert paste(made((2141, 1, 2), (10763, 4, 8))) is not None
    assert paste(made((2141, 1, 2), (10763, 1, 2))) is None


@pytest.mark.parametrize(
    ("places", "text"),
    [
        (
            ((2141, 4, 5), (10763, 2, 3)),
            "The largest constant batch is 32 to 48 (2 to 3 x 16): 32 holds at every place, 48 does not at 50% of the "
            "training.",
        ),
        (
            ((2141, 33, None), (10763, 33, None)),
            "A constant batch of 528 (33 x 16) holds at every place, and no larger one was tried everywhere.",
        ),
        (
            ((2141, 1, 2), (10763, 1, 2)),
            "The largest constant batch is 16 to 32 (1 to 2 x 16): 16 holds at every place, 32 does not at 10% of the "
            "training. The batch should not grow from 16.",
        ),
    ],
)
def test_the_answer_claims_nothing_beyond_what_was_tried(
    places: tuple[tuple[int, int, int | None], ...], text: str
) -> None:
    report = made(*places)
    assert answer(report) == text
    assert probe_markdown(report).startswith(f"# Probe of digits\n\n{text.replace('_', chr(92) + '_')}\n")
    assert "0.5 times the samples of a run, 0.5 times its time." in probe_markdown(report)
