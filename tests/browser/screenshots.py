"""Pictures for docs/images, see `make screenshots`: RUN_DIR EXPLAIN.html."""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image

from tests.browser.chromium import Chromium, find

IMAGES = Path(__file__).parents[2] / "docs/images"
BOX = """(s => { const r = document.querySelector(s).getBoundingClientRect();
  return {x: 0, y: Math.max(0, r.y + scrollY - 20), width: innerWidth, height: r.height + 40} })"""


def save(browser: Chromium, name: str, clip: dict[str, float]) -> None:
    """As a PNG of 128 colours, which is a third of the size."""
    image = Image.open(io.BytesIO(browser.screenshot(clip))).convert("RGB")
    path = IMAGES / name
    image.quantize(128, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size} bytes")


def main(run: Path, explained: Path) -> None:
    browser = Chromium(find() or sys.exit("no chromium on PATH; apt-get install chromium"))
    try:
        for dark in (False, True):
            end = "_dark.png" if dark else ".png"
            browser.media(dark=dark)
            browser.size(1180, 1000)
            browser.open(run / "report.html")
            height = browser.run("document.querySelector('#tokens').getBoundingClientRect().y")
            save(browser, f"report{end}", {"x": 0, "y": 0, "width": 1180, "height": height})
            browser.size(1000, 900)
            browser.open(explained)
            save(browser, f"heatmap{end}", browser.run(f"{BOX}('#tokens')"))
    finally:
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
