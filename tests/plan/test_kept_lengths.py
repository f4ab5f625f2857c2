"""A resume at another batch size: lengths in steps keep their samples, or the resume is refused."""

from collections.abc import Callable

import pytest

from scaler.errors import JobFileError
from scaler.job import Job
from scaler.plan import make_plan
from scaler.plan.kept_lengths import require_same_lengths

Digits = Callable[..., Job]


def resumed(round_job: Digits, *overrides: str, now: tuple[str, ...] = (), workers: int = 4) -> str | None:
    """Resume a run of 2 workers on others; the refusal, or None."""
    before, after = round_job(*overrides), round_job(*overrides, *now, workers=workers)
    try:
        require_same_lengths(before, make_plan(before), after, make_plan(after))
    except JobFileError as error:
        return str(error)
    return None


HEAD = "the global batch is 200 samples now and was 100, which would change the schedule.\n"


@pytest.mark.parametrize(
    ("override", "text", "keep"),
    [
        (
            "schedule={name: multi_step, at: [{steps: 30}, {epochs: 8}]}",
            "schedule.at = [{steps: 30}, {epochs: 8}]: 3,000, 8,000 samples so far, 6,000, 8,000 samples now.",
            "--set 'schedule.at=[{samples: 3000}, {samples: 8000}]'",
        ),
        (
            "schedule={name: cosine, warmup: {steps: 20, start: 0.1}}",
            "schedule.warmup = {steps: 20, start: 0.1, shape: linear}: 2,000 samples so far, 4,000 samples now.",
            "--set 'schedule.warmup={samples: 2000, start: 0.1, shape: linear}'",
        ),
        (
            "schedule={name: wsd, tail_length: {steps: 10}}",
            "schedule.tail_length = {steps: 10}: 1,000 samples so far, 2,000 samples now.",
            "--set 'schedule.tail_length={samples: 1000}'",
        ),
        (
            "scale.batch_schedule={name: points, points: [{at: {steps: 30}, factor: 2}]}",
            "scale.batch_schedule.points = [{at: {steps: 30}, factor: 2}]: 3,000 samples so far, 6,000 samples now.",
            "--set 'scale.batch_schedule.points=[{at: {samples: 3000}, factor: 2}]'",
        ),
        (
            "train={steps: 50, num_samples: 1000}",
            "train.steps = 50: 5,000 samples so far, 10,000 samples now.",
            "--set train.steps=null --set train.samples=5000",
        ),
    ],
)
def test_a_length_in_steps_that_would_move_is_refused_with_what_keeps_it(
    round_job: Digits, override: str, text: str, keep: str
) -> None:
    assert resumed(round_job, override) == f"{HEAD}  {text}\n  Keep it: {keep}"


def test_an_automatic_warmup_that_would_come_or_go_is_refused(round_job: Digits) -> None:
    at_the_reference = ("reference.global_batch_size=100", "schedule={name: cosine}")
    assert resumed(round_job, *at_the_reference) == (
        f"{HEAD}  schedule.warmup = auto: 0 samples so far, 556 now.\n  Keep it: --set 'schedule.warmup={{samples: 0}}'"
    )


@pytest.mark.parametrize(
    ("overrides", "now"),
    [
        (["schedule={name: multi_step, at: [{epochs: 3}]}"], ()),  # not in steps
        (["schedule={name: multi_step, at: [{steps: 30}]}", "scale.global_batch_size=100"], ()),  # the same batch
        (["schedule={name: multi_step, at: [{steps: 30}]}"], ("schedule.at=[{steps: 15}]",)),  # asked for now
        (["schedule={name: cosine}"], ("train.epochs=20",)),  # longer training: its fraction is longer
    ],
)
def test_what_does_not_move_or_was_asked_for_resumes(
    round_job: Digits, overrides: list[str], now: tuple[str, ...]
) -> None:
    assert resumed(round_job, *overrides, now=now) is None
