"""Your own pairs: a JSONL file with `image`, `prompt`, `chosen`, `rejected` a row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from uedpo.types import NonNegativeInt, PreferencePair

_COLUMNS = ("prompt", "chosen", "rejected")


class JsonlPairs(Sequence[PreferencePair]):
    """Rows {"image": path relative to `image_root` or null, "prompt", "chosen", "rejected"[, "id"]}.

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
        self.rows: list[tuple[str, Path | None, str, str, str]] = []
        # not splitlines: a JSON string may hold U+2028 and the like
        for number, line in enumerate(file.read_text(encoding="utf-8-sig").split("\n"), start=1):
            if line.strip():
                self.rows.append(self._row(f"{file}:{number}", f"{file.name}:{number}", line))
        if not self.rows:
            raise ValueError(f"{file}: no rows")
        self.rows = self.rows[: num_pairs or None]

    def _row(self, where: str, name: str, line: str) -> tuple[str, Path | None, str, str, str]:
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
        return identity, path, row["prompt"], row["chosen"], row["rejected"]

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

    def __getitem__(self, i: int) -> PreferencePair:  # type: ignore[override]
        name, path, prompt, chosen, rejected = self.rows[i]
        image = Image.open(path).convert("RGB") if path is not None else None
        return PreferencePair(name, image, prompt, chosen, rejected)
