"""Your own pairs: a JSONL file with `image`, `prompt`, `chosen`, `rejected` a row."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from uedpo.data.formats.simple import to_pair
from uedpo.data.images import find_image, image_folder
from uedpo.data.rejects import RowProblem
from uedpo.data.rows import CheckedPairs, numbered_lines, parse_line
from uedpo.runtime.progress import tracked
from uedpo.types import Fraction, NonNegativeInt


class JsonlPairs(CheckedPairs):
    """Rows {"image": path relative to `image_root` or null, "prompt", "chosen", "rejected"[, "id"]}.

    Two methods take one more key: "negatives", a list of further rejected responses (NaPO: the answer
    to the question alone, then to the image alone), and "similarity", the image-text scores of chosen
    and rejected (DA-DPO). More that a row may have, and what is checked: docs/data.md. A key that would
    change what the model sees or learns, and is not read, rejects its row.

    Args:
        path: the JSONL file.
        image_root: folder all image paths must stay inside; default: the file's own.
        num_pairs: stop reading after so many usable rows; 0 takes all.
        max_bad_fraction: share of the rows read that may be rejected.

    Raises:
        InputError: more rows than that cannot be used, each named as file:line, before training starts.
    """

    def __init__(
        self,
        path: str,
        image_root: str | None = None,
        num_pairs: NonNegativeInt = 0,
        max_bad_fraction: Fraction = 0.001,
    ) -> None:
        file = Path(path).expanduser()
        super().__init__(str(file), max_bad_fraction)
        root = image_folder(image_root, file.parent)
        find = functools.lru_cache(maxsize=4096)(functools.partial(find_image, root))  # rows share pictures

        def image(value: Any) -> Path:
            return find(value) if isinstance(value, str) else find_image(root, value)

        for number, line in tracked(numbered_lines(file), f"reading {file.name}"):
            try:
                row = line if isinstance(line, RowProblem) else to_pair(parse_line(line))
            except RowProblem as problem:
                row = problem
            self.add(number, row, image)
            if num_pairs and len(self.rows) == num_pairs:
                break
        self.ledger.settle(max_bad_fraction)
