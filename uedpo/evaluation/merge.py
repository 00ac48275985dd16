"""One answer file from those of all shards: `python -m uedpo.evaluation.merge output=FILE SHARD ...`.

The result is, byte for byte, what one process would have written that gave the same answers.
"""

from __future__ import annotations

import re
from pathlib import Path

from uedpo.errors import InputError, local_path
from uedpo.evaluation.append_file import ANSWERS, Row, line_of, read, sealed
from uedpo.evaluation.options import command
from uedpo.evaluation.questions import field
from uedpo.results.keys import differing
from uedpo.runtime.atomic import replace
from uedpo.runtime.say import say


def merge(output: str, shards: list[str]) -> int:
    """Write `output` from finished files of shards 0/n to n-1/n, in any order; the exit code.

    Raises:
        InputError: shards of different settings, one missing or twice, an id missing or twice.
    """
    target = local_path(output)
    if target.exists():
        raise InputError(f"{target}: exists; choose another output")
    if not shards:
        raise InputError("no shard given; write output=FILE SHARD SHARD ...")
    files: dict[str, tuple[Path, list[Row]]] = {}
    first: Row | None = None
    for path in (local_path(name) for name in shards):
        header, rows = read(path, ANSWERS)
        first = first or header
        keys = differing([first, header], ["shard", "sha256"])
        if keys:
            raise InputError(f"{path}:1: {', '.join(keys)} differ from {shards[0]}; merge shards of one run")
        shard = _shard(f"{path}:1", header)
        if shard in files:
            raise InputError(f"{path}:1: shard {shard} is that of {files[shard][0]} too")
        for number, row in rows:
            field(f"{path}:{number}", row, "id", int)
        files[shard] = path, [row for _, row in rows]
    assert first is not None
    merged = _interleaved(first, files)
    lines: list[Row] = [sealed({**first, "shard": "0/1"}), *merged]
    target.parent.mkdir(parents=True, exist_ok=True)
    replace(target, lambda file: file.writelines(line_of(line) for line in lines))
    say(f"{len(merged)}/{first['num']} answers in {target}")
    return 0


def _shard(where: str, header: Row) -> str:
    """The header's "i/n", with what the merge reads of it checked."""
    shard: str = field(where, header, "shard", str)
    if not re.fullmatch(r"[0-9]{1,6}/[1-9][0-9]{0,5}", shard) or field(where, header, "num", int) < 0:
        raise InputError(f"{where}: shard must be i/n and num a count; merge files of generate")
    return shard


def _interleaved(header: Row, files: dict[str, tuple[Path, list[Row]]]) -> list[Row]:
    """Rows of all shards in the order of the questions: shard i holds the questions i, i + n, ..."""
    of, num = int(header["shard"].split("/")[1]), header["num"]
    missing = [f"{i}/{of}" for i in range(of) if f"{i}/{of}" not in files]
    if missing:
        raise InputError(f"shard {', '.join(missing)} missing; give the files of all {of} shards")
    seen: dict[int, Path] = {}
    for index in range(of):
        path, rows = files[f"{index}/{of}"]
        expected = len(range(index, num, of))
        if len(rows) != expected:
            raise InputError(f"{path}: {len(rows)} of {expected} answers; run its generate again")
        for row in rows:
            if row.get("id") in seen:
                raise InputError(f"{path}: id={row.get('id')!r} has an answer in {seen[row['id']]} too")
            seen[row["id"]] = path
    return [files[f"{k % of}/{of}"][1][k // of] for k in range(num)]


if __name__ == "__main__":
    command(merge, bare="shards")
