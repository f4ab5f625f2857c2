"""The block of the documents that starts Ray."""

import shutil
import subprocess
import sys
from pathlib import Path

from code_blocks import ROOT, blocks, commands, pages


def test_the_first_run_on_two_workers(tmp_path: Path) -> None:
    (block,) = [block for page in pages() for block in blocks(page) if block.mark == "ray"]
    (command,) = commands(block)
    shutil.copytree(ROOT / "jobs/digits", tmp_path / "jobs/digits", ignore=shutil.ignore_patterns("runs"))
    run = subprocess.run(
        [sys.executable, "-m", "scaler", *command], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "21,555 samples in 90 steps" in run.stdout
