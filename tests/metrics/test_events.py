"""Events: every kind is read as it was written; what a newer scaler wrote is kept, what is damaged is left out."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from made_events import make_event

from scaler.masking import mask_text
from scaler.metrics.events import (
    KINDS,
    AttemptStarted,
    CheckpointFailed,
    GroupEnded,
    Resumed,
    UnknownEvent,
    WorkerHung,
    of_type,
    parse_event,
    to_dict,
    with_texts,
)
from scaler.metrics.reader import read_events
from scaler.metrics.writer import MetricsWriter
from scaler.runs import RunFolder

FAILED = {"kind": "checkpoint_failed", "time": 5.0, "attempt": 0, "samples_seen": 64, "reason": "full"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read_as_it_was_written(kind: str) -> None:
    event = make_event(kind)
    row = json.loads(json.dumps(to_dict(event)))
    assert list(row)[:2] == ["kind", "time"]
    assert parse_event(row) == event
    assert pickle.loads(pickle.dumps(event)) == event, "events cross processes as they are"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_class_with_a_docstring_of_one_sentence(kind: str) -> None:
    assert KINDS[kind].kind == kind
    assert (KINDS[kind].__doc__ or "").rstrip().endswith(".")


@pytest.mark.parametrize(
    "row",
    [
        {"kind": "moon_rose", "time": 5.0, "attempt": 2, "phase": "full"},
        {"kind": "moon_rose"},
        {"kind": "moon_rose", "time": "noon", "attempt": None, "deep": {"a": [1]}},
    ],
)
def test_an_event_of_a_newer_scaler_is_kept_as_it_came(row: dict[str, Any]) -> None:
    event = parse_event(row)
    assert isinstance(event, UnknownEvent)
    assert (event.kind, event.row) == ("moon_rose", row)
    assert event.attempt == row.get("attempt")
    assert to_dict(event) == row


def test_a_field_of_a_newer_scaler_is_kept_behind_the_others() -> None:
    event = parse_event({**FAILED, "disk": "nvme0"})
    assert isinstance(event, CheckpointFailed)
    assert event.extra == {"disk": "nvme0"}
    assert list(to_dict(event).items()) == [*FAILED.items(), ("disk", "nvme0")]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"time": 5.0}, "the event has no kind"),
        ({**FAILED, "kind": 7}, "the event has no kind"),
        ({name: value for name, value in FAILED.items() if name != "reason"}, "checkpoint_failed lacks .*'reason'"),
        ({**FAILED, "samples_seen": "64"}, "checkpoint_failed.samples_seen = '64' is not"),
        ({**FAILED, "samples_seen": 64.5}, "checkpoint_failed.samples_seen = 64.5 is not"),
        ({**FAILED, "samples_seen": True}, "checkpoint_failed.samples_seen = True is not"),
        ({**FAILED, "attempt": None}, "checkpoint_failed.attempt = None is not"),
        ({**to_dict(make_event("evaluated")), "values": {"loss": "low"}}, "evaluated.values = "),
        ({**to_dict(make_event("resumed")), "changes": [["train.epochs", 2, 3]]}, "resumed.changes = "),
        ({**to_dict(make_event("resumed")), "changes": "train.epochs"}, "resumed.changes = "),
    ],
)
def test_a_row_that_is_no_event_says_why(row: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_event(row)


def test_damaged_rows_are_left_out_and_the_others_are_read(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    rows = [FAILED, {**FAILED, "reason": None}, {"kind": "moon_rose"}, {"time": 1.0}]
    folder.append_json("events.jsonl", rows)
    assert [event.kind for event in read_events(folder)] == ["checkpoint_failed", "moon_rose"]


def test_whole_numbers_are_times_and_are_written_back_as_they_came() -> None:
    row = {"kind": "tried_out", "time": 5, "attempt": 0, "samples_seen": 0, "seconds": 2, "loss_not_checked": None}
    assert json.dumps(to_dict(parse_event(row))) == json.dumps(row)


def test_what_is_optional_and_none_is_not_written() -> None:
    event = GroupEnded(time=1.0, attempt=0, cause="lost", ranks=[1], message="its node died")
    assert "twice_at" not in to_dict(event)
    resumed = Resumed(time=1.0, from_samples=None, workers=2, changes=[], idle_s=0.0)
    assert "attempt" not in to_dict(resumed)
    assert to_dict(resumed)["from_samples"] is None


def test_secrets_are_masked_in_every_text(tmp_path: Path) -> None:
    secret = "s3://user:hunter22@bucket"
    events = [
        parse_event({**FAILED, "reason": secret, "new": secret}),
        parse_event({"kind": "moon_rose", "at": secret}),
    ]
    assert "hunter22" not in "".join(json.dumps(to_dict(with_texts(event, mask_text))) for event in events)
    writer = MetricsWriter(RunFolder(str(tmp_path)))
    for event in events:
        writer.add_event(event)
    writer.close()
    assert "hunter22" not in (tmp_path / "events.jsonl").read_text()


def test_events_of_one_class_are_found_in_order() -> None:
    events = [make_event("attempt_started", attempt=number) for number in (0, 1)]
    hung = make_event("worker_hung", rank=3)
    assert of_type([events[0], hung, events[1]], AttemptStarted) == events
    assert of_type([*events, hung], WorkerHung) == [hung]
