"""A report of a folder in which files are damaged or missing: it says so, and accuses nobody."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic import SyntheticRun, codes

from scaler.errors import RunError
from scaler.job import dump_job
from scaler.metrics.reader import read_records
from scaler.metrics.writer import MetricsWriter
from scaler.report.run.html import render_html
from scaler.report.run.markdown import render_markdown
from scaler.report.run.read import read_report
from scaler.runs import RunFolder


@pytest.fixture
def stored(tmp_path: Path) -> Callable[..., RunFolder]:
    """Write a run to a folder, the records of each attempt in a file of their own."""

    def write(run: SyntheticRun, *, name: str = "run") -> RunFolder:
        (tmp_path / name).mkdir()
        folder = RunFolder(str(tmp_path / name))
        folder.write("job.yaml", dump_job(run.job))
        folder.write_json("plan.json", run.plan.to_dict())
        folder.write_json("status.json", {"schema_version": 1, "run_id": "run", "state": run.state})
        writer = MetricsWriter(folder)
        for event in run.events:
            writer.add_event(event)
        for attempt in sorted({record.attempt for record in run.records}):
            writer.add([record for record in run.records if record.attempt == attempt])
            writer.flush()
        writer.close()
        return folder

    return write


@pytest.mark.parametrize("damage", [lambda raw: raw[: len(raw) // 2], lambda raw: b"", lambda raw: raw[:-4] + b"nope"])
def test_a_damaged_file_of_records_is_left_out_and_reported(
    synthetic_run: SyntheticRun,
    stored: Callable[..., RunFolder],
    damage: Callable[[bytes], bytes],
) -> None:
    folder = stored(synthetic_run.attempt(0, stop=96).left("resize").attempt(1, start=96))
    name = "metrics/00000000-00000000.parquet"
    folder.write(name, damage(folder.read(name)))
    report = read_report(folder)
    assert codes(report) == [("records_unreadable", None)]
    (verdict,) = report.verdicts
    assert verdict.message == "1 file of records cannot be read, and was skipped."
    assert verdict.evidence.startswith(f"{name} holds no records: ")
    assert (report.lr_audit.max_abs_error, report.totals.samples_seen) == (0.0, 200)
    assert ".." not in render_markdown(report).replace("...", "")
    render_html(report)


def test_records_alone_are_not_read_of_a_damaged_file(
    synthetic_run: SyntheticRun, stored: Callable[..., RunFolder]
) -> None:
    folder = stored(synthetic_run.attempt(0))
    folder.write("metrics/00000000-00000000.parquet", b"")
    with pytest.raises(RunError, match=r"holds no records: .*[^.]\.\n") as raised:
        read_records(folder)
    assert raised.value.remedy == "The file was altered."


def test_events_that_were_emptied_come_first(synthetic_run: SyntheticRun, stored: Callable[..., RunFolder]) -> None:
    folder = stored(synthetic_run.attempt(0, stop=96).left("resize").attempt(1, start=96))
    folder.write("events.jsonl", "")
    report = read_report(folder)
    assert codes(report)[0] == ("events_missing", None)
    verdict = report.verdicts[0]
    assert verdict.message == "events.jsonl lacks the start of attempts 0 and 1, which recorded steps."
    left_out = "are left out of the numbers and of the learning rate audit"
    assert verdict.evidence == f"the records of these attempts {left_out}"
    assert (report.lr_audit.checked_steps, report.lr_audit.as_planned) == (0, None)


def test_an_attempt_that_followed_on_one_without_events_is_not_audited(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0, stop=96, factors={48: 0.5})
    run = run.event("lr_lowered", 48, by="plateau", factor=0.5, reason="loss 2 is no better")
    run = run.left("resize").attempt(1, start=96, factors={0: 0.5})
    assert run.report().lr_audit.max_abs_error == 0.0
    cut = replace(run, events=tuple(event for event in run.events if event.attempt == 1)).report()
    assert codes(cut) == [("events_missing", None)]
    assert cut.verdicts[0].evidence == (
        "the records of this attempt are left out of the numbers and of the learning rate audit; the learning rate of "
        "attempt 1, which followed, is not audited"
    )


def test_a_start_that_is_on_its_way_is_not_missing(synthetic_run: SyntheticRun) -> None:
    run = replace(synthetic_run.attempt(0, stop=96).left("resize").attempt(1, start=96, stop=132), state="running")
    early = replace(run, events=tuple(event for event in run.events if event.attempt != 1))
    assert codes(early.report()) == [("not_finished", None)]


# Against another run.


def test_efficiency_is_against_a_baseline_of_one_worker(
    synthetic_run: SyntheticRun, stored: Callable[..., RunFolder]
) -> None:
    alone = stored(synthetic_run.attempt(0, world_size=1, step_time_s=0.0625), name="alone")
    report = read_report(stored(synthetic_run.attempt(0)), baseline=alone)
    assert report.scaling is not None
    assert report.scaling.source == "run alone"
    one_worker = 200 / (26 * 0.0625)  # steps of 8, or 4 at the end of an epoch
    assert report.scaling.efficiency == report.scaling.worker_samples_per_s / one_worker


@pytest.mark.parametrize(
    ("make", "did"),
    [
        (lambda run: run.attempt(0), "trained with 2 workers"),
        (lambda run: replace(run.attempt(0, stop=0), state="failed"), "recorded no step"),
    ],
)
def test_a_baseline_that_is_none_is_refused(
    synthetic_run: SyntheticRun,
    stored: Callable[..., RunFolder],
    make: Callable[[SyntheticRun], SyntheticRun],
    did: str,
) -> None:
    other = stored(make(synthetic_run), name="other")
    with pytest.raises(RunError) as error:
        read_report(stored(synthetic_run.attempt(0)), baseline=other)
    assert str(error.value) == (
        f"baseline = other {did}, but efficiency is computed against one worker alone.\n"
        "  Give a run of one worker: scaler submit JOB --workers 1."
    )
