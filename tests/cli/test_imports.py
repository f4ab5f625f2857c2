"""Which modules a command loads, read from ``sys.modules`` of a separate process."""

import subprocess
import sys
from pathlib import Path

import pytest
from run_folders import write_run
from synthetic import SyntheticRun

HEAVY = ["torch", "ray", "pydantic", "numpy", "pandas", "pyarrow", "fsspec", "yaml", "jinja2"]

SHOW = """
import sys
from contextlib import redirect_stdout
from io import StringIO
with redirect_stdout(StringIO()):
    {use}
print(*sorted({{name.partition(".")[0] for name in sys.modules}}))
"""


def loaded_by(use: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", SHOW.format(use=use)], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "use", ["import scaler", "import scaler.cli", 'from scaler.cli import run; assert run(["--help"]) == 0']
)
def test_help_loads_nothing_heavy(use: str) -> None:
    modules = loaded_by(use)
    assert "scaler" in modules
    assert sorted(modules & set(HEAVY)) == []


@pytest.mark.parametrize("options", [["--json"], [], ["--workers", "1,2", "--rule", "linear,sqrt"]])
def test_a_plan_loads_neither_torch_nor_ray(digits_path: Path, options: list[str]) -> None:
    arguments = ["plan", str(digits_path), *options]
    modules = loaded_by(f"from scaler.cli import run; assert run({arguments!r}) == 0")
    assert "pydantic" in modules
    assert ("plotille" in modules) == ("--json" not in options)
    assert sorted(modules & {"torch", "ray", "numpy", "pandas", "pyarrow", "jinja2"}) == []


@pytest.mark.parametrize("command", ["status", "logs", "wait"])
def test_following_a_run_loads_neither_torch_nor_ray(tmp_path: Path, synthetic_run: SyntheticRun, command: str) -> None:
    write_run(str(tmp_path), "one", synthetic_run.attempt(0))
    arguments = [command, "one", "--storage", str(tmp_path)]
    modules = loaded_by(f"from scaler.cli import run; assert run({arguments!r}) == 0")
    assert sorted(modules & {"torch", "ray", "pandas", "pyarrow"}) == []


def test_listing_runs_loads_neither_torch_nor_ray(tmp_path: Path) -> None:
    modules = loaded_by(f'from scaler.cli import run; assert run(["list", "--storage", {str(tmp_path)!r}]) == 0')
    assert sorted(modules & {"torch", "ray", "pandas"}) == []


@pytest.mark.parametrize("options", [["compare", "one", "other"], ["check", "one", "--max-loss", "9"]])
def test_reading_runs_loads_neither_torch_nor_ray(
    tmp_path: Path, synthetic_run: SyntheticRun, options: list[str]
) -> None:
    for run_id in ("one", "other"):
        write_run(str(tmp_path), run_id, synthetic_run.attempt(0))
    arguments = [*options, "--storage", str(tmp_path)]
    modules = loaded_by(f"from scaler.cli import run; assert run({arguments!r}) == 0")
    assert "pyarrow" in modules
    assert sorted(modules & {"torch", "ray"}) == []
