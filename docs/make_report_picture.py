"""Submit the digits job and take the README's screenshot of its report page. `make docs` runs it.

It needs Debian's Chromium. The picture shows times, so run it on an idle machine.
"""

import shutil
import subprocess
import sys
import tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs/pictures/report.png"
WIDTH = 1120  # CSS pixels; the picture has twice as many
COLOURS = 256  # enough for a page of text and lines, and less than half the bytes
MOST_BYTES = 400_000


def submit(storage: str) -> Path:
    """Submit the job once and return the path of its report page."""
    scaler = Path(sys.executable).parent / "scaler"
    command = [scaler, "submit", "jobs/digits/job.yaml", "--quiet", "--json", "--set", f"storage={storage}"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    (page,) = Path(storage).glob("*/report.html")
    return page


def main() -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("There is no Chromium here: apt-get install chromium.")
    with tempfile.TemporaryDirectory() as storage, sync_playwright() as playwright:
        file = submit(storage)
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 1000}, device_scale_factor=2)
        page.goto(file.as_uri())
        loss = page.locator("#chart-loss .plot").bounding_box()
        if loss is None:
            sys.exit("The page has no chart of the loss.")
        top = {"x": 0, "y": 0, "width": WIDTH, "height": loss["y"] + loss["height"] + 12}
        shot = page.screenshot(clip=top, full_page=True)
        browser.close()
    picture = Image.open(BytesIO(shot)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    picture.save(PICTURE, optimize=True)
    size = PICTURE.stat().st_size
    print(f"{PICTURE.relative_to(ROOT)}: {size:,} bytes")
    if size > MOST_BYTES:
        sys.exit(f"The picture has {size:,} bytes, more than {MOST_BYTES:,}.")


if __name__ == "__main__":
    main()
