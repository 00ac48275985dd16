"""openbmb/RLHF-V-Dataset (Yu et al. 2024, arXiv 2312.00849), from the hub or a local folder."""

from __future__ import annotations

from typing import Literal

from uedpo.data.files import FilePairs, ValShare, places_of
from uedpo.data.reading import read_rows
from uedpo.types import Fraction


class RLHFVPairs(FilePairs):
    """Rows whose `text` is a JSON object (or its string) with question, chosen, rejected.

    Only pictures that are stored in the parquet files are read: a path or an address in the place of a
    picture is not followed.

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
        val_share: ValShare = 0.02,
        max_bad_fraction: Fraction = 0.001,
    ) -> None:
        rows = read_rows(source, revision)
        super().__init__(
            rows, places_of(rows, part, val_share), format="rlhf_v", max_bad_fraction=max_bad_fraction
        )
