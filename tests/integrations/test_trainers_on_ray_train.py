"""In a ``train_loop_per_worker`` of Ray Train, Lightning and Transformers train as their own documentation says."""

import subprocess
import sys
from pathlib import Path

from small_data import SAMPLES, require_whole_report

SCRIPT = Path(__file__).parent / "on_ray_train.py"
TIMEOUT_S = 300  # of a script that hangs


def test_both_write_whole_reports_in_two_workers(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path)], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    for name, samples in (("lightning", 3 * SAMPLES), ("transformers", 3 * 96 - 16)):
        (run,) = (tmp_path / name).glob("other-*")
        report = require_whole_report(str(run), samples=samples)
        assert (len(report.workers), report.plan["global_batch_size"]) == (2, 8)
