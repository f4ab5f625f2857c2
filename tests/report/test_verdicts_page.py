"""docs/verdicts.md and the code: the same codes, the same thresholds."""

import ast
import re
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from scaler.report.run import missing_data, verdicts
from scaler.report.run.verdicts import GRAVEST_FIRST

PAGE = (Path(__file__).parents[2] / "docs" / "verdicts.md").read_text()
MODULES = {
    module.name: import_module(f"scaler.report.run.verdicts.{module.name}")
    for module in iter_modules(verdicts.__path__)
}
WORDING = {
    "restarts.SHOWN_ENDS",
    "loss.SHOWN_JUMPS",
    "data.SHOWN_RANKS",
    "recording.SHOWN_SINKS",
}  # how many are listed


def assigned(source: str) -> list[str]:
    """The constants that a module sets itself, not those that it imports."""
    nodes = (node for node in ast.parse(source).body if isinstance(node, ast.Assign))
    return [target.id for node in nodes for target in node.targets if isinstance(target, ast.Name)]


def test_the_page_has_every_code_and_no_other() -> None:
    assert sorted(re.findall(r"^### (\w+)$", PAGE, re.MULTILINE)) == sorted(GRAVEST_FIRST)


def test_every_code_that_is_found_has_its_place() -> None:
    sources = [Path(module.__file__ or "").read_text() for module in (*MODULES.values(), missing_data)]
    assert {code for source in sources for code in re.findall(r'code="(\w+)"', source)} == set(GRAVEST_FIRST)
    assert len(set(GRAVEST_FIRST)) == len(GRAVEST_FIRST)


def test_the_page_has_every_threshold_with_its_value() -> None:
    said = {name: float(value) for name, value in re.findall(r"^\| `([\w.]+)` \| ([\d.]+) \|", PAGE, re.MULTILINE)}
    there = {
        f"{name}.{constant}": float(value)
        for name, module in MODULES.items()
        for constant in assigned(Path(module.__file__ or "").read_text())
        if isinstance(value := getattr(module, constant), int | float)
    }
    assert said == {name: value for name, value in there.items() if name not in WORDING}
    assert set(there) >= WORDING
