"""Your own pairs: a JSONL file with `image`, `prompt`, `chosen`, `rejected` a row."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from uedpo.data.fingerprint import digest
from uedpo.types import NonNegativeInt, PreferencePair

_COLUMNS = ("prompt", "chosen", "rejected")


class JsonlPairs(Sequence[PreferencePair]):
    """Rows {"image": path relative to `image_root` or null, "prompt", "chosen", "rejected"[, "id"]}.

    Two methods take one more key: "negatives", a list of further rejected responses (NaPO: the answer
    to the question alone, then to the image alone), and "similarity", the image-text scores of chosen
    and rejected (DA-DPO).

    Args:
        path: the JSONL file.
        image_root: folder all image paths must stay inside; default: the file's own.
        num_pairs: the first so many rows; 0 takes all.

    Raises:
        ValueError: a row that is not usable, named as file:line, before training starts.
    """

    def __init__(self, path: str, image_root: str | None = None, num_pairs: NonNegativeInt = 0) -> None:
        file = Path(path).expanduser()
        if not file.is_file():
            raise ValueError(f"{file}: no such file; set the path of a JSONL file with preference pairs")
        self.root = (Path(image_root).expanduser() if image_root else file.parent).resolve()
        self.rows: list[PreferencePair] = []  # image: its path
        # not splitlines: a JSON string may hold U+2028 and the like
        for number, line in enumerate(file.read_text(encoding="utf-8-sig").split("\n"), start=1):
            if line.strip():
                self.rows.append(self._row(f"{file}:{number}", f"{file.name}:{number}", line))
        if not self.rows:
            raise ValueError(f"{file}: no rows")
        self.rows = self.rows[: num_pairs or None]

    def _row(self, where: str, name: str, line: str) -> PreferencePair:
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}: not JSON ({error.msg}); one object a line") from None
        if not isinstance(row, dict) or "image" not in row:
            raise ValueError(f"{where}: must be an object with image (a path or null), {', '.join(_COLUMNS)}")
        for key in _COLUMNS:
            if not isinstance(row.get(key), str) or not row[key].strip():
                raise ValueError(f"{where}: {key} must be a text that is not empty")
        if row["chosen"].strip() == row["rejected"].strip():
            raise ValueError(f"{where}: chosen and rejected are the same; drop the row")
        path = None if row["image"] is None else self._image(where, row["image"])
        # noise is a function of the id, so the default one must not depend on how the path was typed
        identity = name if row.get("id") is None else str(row["id"])
        texts = (row[key] for key in _COLUMNS)
        return PreferencePair(identity, path, *texts, *self._extras(where, row))

    def _extras(self, where: str, row: dict[str, Any]) -> tuple[tuple[str, ...], tuple[float, float] | None]:
        negatives, similarity = row.get("negatives", []), row.get("similarity")
        if not isinstance(negatives, list) or not all(isinstance(n, str) and n.strip() for n in negatives):
            raise ValueError(f"{where}: negatives must be a list of texts that are not empty")
        if similarity is None:
            return tuple(negatives), None
        numbers = isinstance(similarity, list) and [s for s in similarity if type(s) in (int, float)]
        if not numbers or len(numbers) != 2 or len(similarity) != 2:
            raise ValueError(f"{where}: similarity must be two numbers, of chosen and rejected")
        return tuple(negatives), (float(numbers[0]), float(numbers[1]))

    def _image(self, where: str, image: object) -> Path:
        if not isinstance(image, str):
            raise ValueError(f"{where}: image must be a path relative to {self.root}, or null")
        try:
            path = (self.root / image).resolve()
            inside = path.is_relative_to(self.root) and path.is_file()
        except (OSError, ValueError):
            inside = False
        if not inside:
            raise ValueError(f"{where}: image {image!r} is not a file inside {self.root}; set image_root")
        try:
            Image.open(path).close()  # reads the header only
        except OSError:
            raise ValueError(f"{where}: image {image!r} is no picture that can be read") from None
        return path

    def __len__(self) -> int:
        return len(self.rows)

    def fingerprint(self) -> str:
        """Of all texts, and of the place and size of each image."""
        return digest(
            [
                [p.id, p.prompt, p.chosen, p.rejected, p.negatives, p.similarity],
                [str(p.image.relative_to(self.root)), p.image.stat().st_size] if p.image else None,
            ]
            for p in self.rows
        )

    def __getitem__(self, i: int) -> PreferencePair:  # type: ignore[override]
        row = self.rows[i]
        return dataclasses.replace(row, image=row.image and Image.open(row.image).convert("RGB"))
