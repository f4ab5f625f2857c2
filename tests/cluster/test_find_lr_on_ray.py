"""``scaler find-lr`` as a user runs it: two workers on its own embedded Ray."""

import json
import subprocess
import sys
from pathlib import Path

from real_verdicts import codes

ROOT = Path(__file__).parent.parent.parent
SCALER = str(Path(sys.executable).parent / "scaler")


def test_the_learning_rate_of_the_digits_is_found_on_two_workers(tmp_path: Path) -> None:
    done = subprocess.run(
        [SCALER, "find-lr", "jobs/digits/job.yaml", "--json", "--set", f"storage={tmp_path}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.iterdir()
    found = json.loads(done.stdout)
    assert (found["run_id"], found["world_size"], found["global_batch_size"]) == (folder.name, 2, 256)
    assert len(found["lrs"]) == 100
    assert 0.01 / 3 < found["reference_lr"] < 0.01 * 3
    # Each worker planned the climb that was submitted, and so does the report.
    report = json.loads((folder / "report.json").read_text())
    assert [worker["steps"] for worker in report["workers"]] == [100, 100]
    assert report["lr_audit"] == {"checked_steps": 100, "max_abs_error": 0.0, "as_planned": True}
    assert report["plan"] == json.loads((folder / "plan.json").read_text())
    assert codes(report) == []
    assert done.stderr.startswith(f"Run {folder.name}: starting an embedded Ray\n")
    assert done.stderr.count("ray") == done.stderr.count("Ray") - 1 == 0
