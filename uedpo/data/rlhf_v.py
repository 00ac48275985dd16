"""openbmb/RLHF-V-Dataset (Yu et al. 2024, arXiv 2312.00849), from the hub or a local folder."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Gt, Lt

from uedpo.data.rejects import RowProblem
from uedpo.data.rows import CheckedPairs, parse_line
from uedpo.types import Fraction, InputError


class RLHFVPairs(CheckedPairs):
    """Rows whose `text` is a JSON object (or its string) with question, chosen, rejected.

    Only parquet files are read, and only pictures that are stored in them: a path or an address in the
    place of a picture is not followed.

    Args:
        source: hub id, or a local folder with the parquet file.
        revision: commit of the hub id.
        part: "train" or "val".
        val_share: the last so many rows are validation.
        max_bad_fraction: share of the rows read that may be rejected.

    Raises:
        InputError: no such folder, or more rows than that cannot be used.
    """

    def __init__(
        self,
        source: str,
        revision: str | None = None,
        part: Literal["train", "val"] = "train",
        val_share: Annotated[float, Gt(0.0), Lt(1.0)] = 0.02,
        max_bad_fraction: Fraction = 0.001,
    ) -> None:
        from datasets import Image, load_dataset  # a heavy import that the micro-world does not need

        super().__init__(source, max_bad_fraction)
        files = [str(file) for file in sorted(_folder(source, revision).rglob("*.parquet"))]
        if not files:
            raise InputError(f"{source}: no parquet file; give a hub id or a folder that holds one")
        table = load_dataset("parquet", data_files=files, split="train")
        missing = [name for name in ("image", "text") if name not in table.column_names]
        if missing:
            raise InputError(
                f"{source}: no column {', '.join(missing)} (found: {', '.join(table.column_names)}); "
                "use data=jsonl for another layout"
            )
        # undecoded: `datasets` would open whatever path or address stands in for the bytes
        self.table: Any = table.cast_column("image", Image(decode=False))
        cut = len(table) - max(1, round(val_share * len(table)))
        for number in range(cut) if part == "train" else range(cut, len(table)):
            try:
                row: Mapping[str, Any] | RowProblem = _row(self.table[number])
            except RowProblem as problem:
                row = problem
            picture = functools.partial(self._picture, number)
            self.add(number + 1, row, functools.partial(lambda picture, _: picture, picture))
        self.ledger.settle(max_bad_fraction)

    def _picture(self, number: int) -> bytes:
        stored = self.table[number]["image"]
        return bytes(stored["bytes"])


def _folder(source: str, revision: str | None) -> Path:
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(source, repo_type="dataset", revision=revision, allow_patterns="*.parquet")
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"data source {source!r}: no such folder, and the hub does not give it ({reason}); "
            "download it first, or give a folder with its parquet file"
        ) from None


def _row(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the table under the names of `uedpo.data.rows`."""
    text = stored["text"]
    if isinstance(text, str):
        text = parse_line(text.encode("utf-8", "surrogatepass"))
    if not isinstance(text, Mapping):
        raise RowProblem("text", "BAD_TYPE", "must be an object with question, chosen, rejected")
    image = stored["image"]
    if not isinstance(image, Mapping) or not image.get("bytes"):
        raise RowProblem(
            "image", "IMAGE_MISSING", "is not stored in the file; a path or address is not followed"
        )
    names = {"question": "prompt", "chosen": "chosen", "rejected": "rejected"}
    row = {ours: text[theirs] for theirs, ours in names.items() if theirs in text}
    return row | {"image": "stored", "id": stored.get("idx")}
