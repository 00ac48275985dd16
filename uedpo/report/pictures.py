"""Pictures of the page: decoded from data URLs, made small enough, and each embedded once."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
from collections import Counter
from typing import NamedTuple

from PIL import Image

from uedpo.data.images import load_image
from uedpo.data.rejects import RowProblem

MAX_SIDE = 336  # pixels of a stored picture
PREFIXES = ("data:image/png;base64,", "data:image/webp;base64,")
# pairs on a page -> longest side in pixels and WebP quality of a picture
SIZES = ((24, 336, 85), (120, 160, 70), (10**9, 80, 40))


class Picture(NamedTuple):
    """An image; where several places show it, they refer to it by its name."""

    name: str
    url: str
    width: int
    height: int


class Pictures:
    """Collects the pictures of `num_pairs` pairs; more pairs, smaller pictures."""

    def __init__(self, num_pairs: int) -> None:
        self.side, self.quality = next((s, q) for most, s, q in SIZES if num_pairs <= most)
        self._known: dict[str, Picture | None] = {}
        self._uses: Counter[str] = Counter()

    def add(self, url: object) -> Picture | None:
        """The picture of a data URL, encoded anew; None for what is not one: nothing is fetched."""
        if not isinstance(url, str) or not url.startswith(PREFIXES):
            return None
        key = hashlib.sha256(url.encode(errors="replace")).hexdigest()
        self._uses[key] += 1
        if key not in self._known:
            image = _decoded(url.partition(",")[2])
            self._known[key] = None if image is None else self._small(image)
        return self._known[key]

    def shared(self) -> dict[str, Picture]:
        """Those that several places show, by name."""
        return {p.name: p for key, p in self._known.items() if p is not None and self._uses[key] > 1}

    def _small(self, image: Image.Image) -> Picture:
        url = picture_url(image, self.side, self.quality)
        scale = min(1.0, self.side / max(image.size))
        size = [max(1, round(n * scale)) for n in image.size]
        return Picture(f"p{len(self._known)}", url, *size)


def _decoded(text: str) -> Image.Image | None:
    try:
        return load_image(base64.b64decode(text, validate=True))
    except (RowProblem, binascii.Error, ValueError):
        return None


def picture_url(image: Image.Image, side: int = MAX_SIDE, quality: int = 90) -> str:
    """A picture of at most `side` pixels a side as a WebP data URL."""
    small = image.convert("RGB")
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=quality)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
