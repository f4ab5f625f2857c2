"""docs/scaling-table.md: every combination holds what it promises in every step, or is refused."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from scaler.core.rules import RULES
from scaler.core.schedules import SHAPES

SCRIPT = Path(__file__).parents[2] / "docs/make_scaling_table.py"


@pytest.fixture(scope="module")
def table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_scaling_table", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("way", ["fixed", "growing", "elastic", "short last step"])
@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "auto"])
def test_every_combination_holds_what_it_promises_or_is_refused(table: ModuleType, rule: str, way: str) -> None:
    seen = 0
    for combination in table.combinations():
        if combination[0] != rule:
            continue
        found = table.looked_at(*combination, way)
        if found.refusal:
            continue
        seen += 1
        assert found.per_sample, "some step was looked at"
        assert found.worst < table.TOLERANCE, f"{combination}: the learning rate of a step is not the rule's"
        if combination[2] in ("weight decay", "both"):
            assert found.timescales == pytest.approx([1.0] * len(found.timescales), rel=1e-9), combination
        if combination[2] in ("momentum", "both"):
            assert found.per_sample == pytest.approx([1.0] * len(found.per_sample), rel=1e-9), combination
    assert seen or (rule, way) in (("legw", "elastic"), ("adascale", "growing")), "some combination is not refused"


def test_every_schedule_of_a_job_is_planned(table: ModuleType) -> None:
    assert set(table.SCHEDULES) == set(SHAPES) - {"ramp"}, "a resize uses ramp; a job cannot"
