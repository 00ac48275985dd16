"""Pictures for docs/images, see `make screenshots`: RUN_DIR EXPLAIN.html."""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from matplotlib import pyplot
from PIL import Image

from tests.browser.chromium import Chromium, find
from uedpo.compare import compare

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs/images"
SWEEP = ROOT / "experiments/results.jsonl"
BOX = """(s => { const r = document.querySelector(s).getBoundingClientRect();
  return {x: 0, y: Math.max(0, r.y + scrollY - 20), width: innerWidth, height: r.height + 40} })"""


def save(picture: bytes, name: str) -> None:
    """As a PNG of 128 colours, which is a third of the size."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    path = IMAGES / name
    image.quantize(128, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size} bytes")


def sweep_plot(end: str, *, dark: bool) -> None:
    """The plot that a sweep ends with."""
    with tempfile.TemporaryDirectory() as folder, pyplot.style.context("dark_background" if dark else []):
        compare([SWEEP], Path(folder) / "sweep", by=["weights.alpha", "weights.control"])
        save((Path(folder) / "sweep.png").read_bytes(), f"sweep{end}")


def main(run: Path, explained: Path) -> None:
    browser = Chromium(find() or sys.exit("no chromium on PATH; apt-get install chromium"))
    try:
        for dark in (False, True):
            end = "_dark.png" if dark else ".png"
            browser.media(dark=dark)
            browser.size(1180, 1000)
            browser.open(run / "report.html")
            height = browser.run("document.querySelector('#tokens').getBoundingClientRect().y")
            save(browser.screenshot({"x": 0, "y": 0, "width": 1180, "height": height}), f"report{end}")
            browser.size(1000, 900)
            browser.open(explained)
            save(browser.screenshot(browser.run(f"{BOX}('#tokens')")), f"heatmap{end}")
            sweep_plot(end, dark=dark)
    finally:
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
