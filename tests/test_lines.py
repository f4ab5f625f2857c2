"""The page of added lines is what its script counts, and the counts are within their limits."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location("lines_script", ROOT / "benchmarks/lines.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_fresh(lines: Any) -> None:
    assert lines.PAGE.read_text() == lines.page(), "python benchmarks/lines.py writes it again"


def test_every_kind_has_at_most_the_lines_that_it_may_have(lines: Any) -> None:
    counted = {name: (lines.marked(kind), kind.most_lines) for name, kind in lines.kinds().items()}
    assert {name: count for name, count in counted.items() if not 4 <= count[0] <= count[1]} == {}


def test_what_is_a_line(lines: Any, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text('"""Text."""\n\n# a comment\nx = 1  # why\nif x:\n    y = """\n    z\n    """\n')
    assert list(lines.code_lines(script)) == ["x = 1", "if x:", 'y = """', "z", '"""']


def test_scaler_needs_fewer_lines_than_any_other_trainer(lines: Any) -> None:
    with_scaler, *others = (lines.added(bare, full) for _, bare, full in lines.TRAINERS)
    assert all(with_scaler < other / 2 for other in others)


def test_the_helpers_that_the_full_scripts_share_are_the_same(lines: Any) -> None:
    def helpers(name: str) -> str:
        text = (lines.SCRIPTS / name).read_text()
        return text[text.index("def lr_at") : text.index('    return "\\n".join(lines)')]

    found = {helpers(full) for _, _, full in lines.TRAINERS if full != "torch_scaler.py"}
    assert len(found) == 1
