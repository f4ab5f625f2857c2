"""Submit the digits job and take the README's picture of its report page. `make docs` runs it.

It needs Debian's Chromium. The picture shows times, so run it on an idle machine.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from page_picture import ROOT, take_picture


def main() -> None:
    scaler = Path(sys.executable).parent / "scaler"
    with tempfile.TemporaryDirectory() as storage:
        command = [scaler, "submit", "jobs/digits/job.yaml", "--quiet", "--json", "--set", f"storage={storage}"]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        (page,) = Path(storage).glob("*/report.html")
        take_picture(page, down_to="#chart-loss .plot", picture=ROOT / "docs/pictures/report.png")


if __name__ == "__main__":
    main()
