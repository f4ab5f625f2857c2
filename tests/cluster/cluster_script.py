"""Run a script that starts a Ray cluster of its own, in a process of its own, and read what it found."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def outcomes_of(script: Path, folder: Path) -> dict[str, Any]:
    """Return the JSON object that a script prints; it gets ``folder``, and no variable of another Ray."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {
        "RAY_worker_niceness": "0",
        "RAY_ENABLE_AUTO_CONNECT": "0",
        "PYTHONPATH": str(script.parents[2] / "benchmarks"),
    }
    done = subprocess.run(
        [sys.executable, str(script), str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    values: dict[str, Any] = json.loads(done.stdout)
    return values
