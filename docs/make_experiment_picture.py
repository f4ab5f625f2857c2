"""Run the experiment of the digits and take the README's picture of its page. `make docs` runs it; it takes minutes.

It needs Debian's Chromium. The picture shows times, so run it on an idle machine. The runs go into the folder `runs`;
those that are there are not run again.
"""

import subprocess
import sys
from pathlib import Path

from page_picture import ROOT, take_picture


def main() -> None:
    scaler = Path(sys.executable).parent / "scaler"
    command = [scaler, "experiment", "run", "jobs/digits/scaling.yaml", "--quiet", "--storage", "runs", "--json"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    page = ROOT / "runs/experiments/digits-scaling/experiment.html"
    take_picture(page, down_to=".picture", picture=ROOT / "docs/pictures/experiment.png")


if __name__ == "__main__":
    main()
