"""The examples of docs/batch-schedules.md plan what the page says."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from scaler.job import Job, dump_job, parse_job
from scaler.plan import Plan, make_plan

PAGE = (Path(__file__).parents[2] / "docs/batch-schedules.md").read_text()
EXAMPLE = re.compile(r"```yaml\n(?P<yaml>.*?)```\n\n(?P<table>\| from sample.*?)\n\n(?P<after>[^\n]*)", re.DOTALL)
EXAMPLES = list(EXAMPLE.finditer(PAGE))


def planned(digits: Callable[..., Job], text: str) -> Plan:
    """Return the plan of the digits job with the keys of an example in it."""
    values = yaml.safe_load(dump_job(digits()))
    for section, keys in yaml.safe_load(text).items():
        values[section] = keys if section == "schedule" else {**values[section], **keys}
    return make_plan(parse_job(values, source="page"))


def test_every_example_has_its_table() -> None:
    assert len(EXAMPLES) == PAGE.count("```yaml") == 5


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda match: match["yaml"].splitlines()[-1].strip())
def test_an_example_plans_what_the_page_says(digits: Callable[..., Job], example: re.Match[str]) -> None:
    plan = planned(digits, example["yaml"])
    shown = [line.strip("|").replace(",", "").split("|") for line in example["table"].splitlines()[2:]]
    assert [[float(cell) for cell in row] for row in shown] == [
        [phase.start_samples, phase.global_batch_size, pytest.approx(phase.peak_lr)] for phase in plan.phases
    ]
    steps = re.search(r"(\d+)\s+(?:steps )?instead of (\d+)", example["after"])
    if steps is not None:
        assert [plan.total_steps, plan.steps_at_first_batch] == [int(number) for number in steps.groups()]


def test_two_examples_say_what_they_save() -> None:
    assert len(re.findall(r"\d+ (?:steps )?instead of \d+", PAGE)) == 2
