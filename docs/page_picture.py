"""Take a picture of the top of a page with Debian's Chromium, for the README."""

import shutil
import sys
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parent.parent
WIDTH = 1120  # CSS pixels; the picture has twice as many
COLOURS = 256  # enough for a page of text and lines, and less than half the bytes
MOST_BYTES = 400_000


def take_picture(page: Path, *, down_to: str, picture: Path) -> None:
    """Write the top of a page as PNG.

    Args:
        page: the HTML file.
        down_to: selector of the last element that is in the picture.
        picture: the file to write.
    """
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("There is no Chromium here: apt-get install chromium.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        shown = browser.new_page(viewport={"width": WIDTH, "height": 1000}, device_scale_factor=2)
        shown.goto(page.as_uri())
        last = shown.locator(down_to).first.bounding_box()
        if last is None:
            sys.exit(f"The page has no {down_to}.")
        top = {"x": 0, "y": 0, "width": WIDTH, "height": last["y"] + last["height"] + 12}
        shot = shown.screenshot(clip=top, full_page=True)
        browser.close()
    Image.open(BytesIO(shot)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(picture, optimize=True)
    size = picture.stat().st_size
    print(f"{picture.relative_to(ROOT)}: {size:,} bytes")
    if size > MOST_BYTES:
        sys.exit(f"The picture has {size:,} bytes, more than {MOST_BYTES:,}.")
