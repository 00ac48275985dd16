"""Per-token log-probabilities of the frozen reference on disk, computed once for any number of runs.

A folder holds `manifest.json`, which says what they depend on, and shards `shard-HASH.safetensors`, each
named by the sha256 of its own bytes. Shards are written beside and renamed, and never changed: what a
killed run leaves is whole, and a damaged shard does not fit its name.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pytorch_lightning.utilities.seed import isolate_rng
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from uedpo.errors import InputError, local_path
from uedpo.reference.key import Content, Contents, key_of_row, token_hashes, undecoded
from uedpo.runtime import preemption
from uedpo.runtime.atomic import replace
from uedpo.runtime.folders import make
from uedpo.runtime.lock import held
from uedpo.runtime.progress import late_bar
from uedpo.runtime.say import say
from uedpo.runtime.small_json import loads
from uedpo.types import PairBatch, PreferencePair
from uedpo.types.layout import to_device

SHARD = 1000  # pairs; a killed run loses at most so many on each device
ABOUT_A_PAIR = 200  # bytes of a pair beside its log-probabilities
SAMPLE = 200  # pairs whose tokens are counted to say how large the cache will be
REMEDY = "name another folder, or delete this one"


class Stored(NamedTuple):
    """Of one pair: what it was computed from, and the log-probabilities [t] of each response."""

    content: Content
    tokens: str
    logps: tuple[Tensor, ...]


class ReferenceCache:
    """The log-probabilities of all training and validation pairs of a run.

    `check` needs no model and comes first, `fill` computes what is not there, `logps` reads.

    Args:
        folder: made if missing; any number of runs may share it, one of them computes at a time.
        setting: see `setting_of`.
        data: the data module; its collator and batch size are those of the run.
        validates: whether the validation pairs are needed.
        bars: show progress on a terminal.
    """

    def __init__(
        self, folder: str | Path, setting: Mapping[str, str], data: Any, *, validates: bool, bars: bool = True
    ) -> None:
        self.folder, self.setting, self.data, self.bars = local_path(str(folder)), dict(setting), data, bars
        self.parts: dict[str, Sequence[PreferencePair]] = {"train": data.train}
        if validates:
            self.parts["val"] = data.val
        self.contents: dict[str, Content] = {}
        self.places: dict[str, tuple[str, int]] = {}  # key -> part and row
        self.stored: dict[str, Stored] = {}

    def check(self) -> str:
        """Whether the folder is of this setting and its rows are those of the data; says its size.

        Raises:
            InputError: a stale manifest, naming what differs; a row of other content, naming it; no room.
        """
        try:
            make(self.folder)
        except InputError as error:
            raise InputError(f"reference_cache: {error}") from None
        self._check_manifest()
        self._describe()
        self._read()
        missing, total = self._missing(), len(self.contents)
        if not missing:
            return f"reference cache: all {total:,} pairs are in {self.folder}"
        size, free = self._size(missing), shutil.disk_usage(self.folder).free
        there = f" more ({total - len(missing):,} are there)" if len(missing) < total else ""
        said = f"reference cache: {len(missing):,} pairs{there}, about {_bytes(size)}, in {self.folder}"
        if size > free:
            raise InputError(f"{said}: {_bytes(free)} are free there; make room, or name another folder")
        return f"{said} ({_bytes(free)} free)"

    def fill(self, source: Any, scorer: Any, trainer: Any) -> None:
        """Compute what is not there with the model as it was published, each rank its share; keep all.

        Leaves the random generators as they were, so that a run which computes equals one which reads.

        Raises:
            InputError: see `check`; or ranks that do not share the folder.
        """
        first, barrier = trainer.is_global_zero, trainer.strategy.barrier
        self._read()
        builds = first and bool(self._missing())
        with held(self.folder, "build.lock", wait=True) if builds else contextlib.nullcontext():
            if builds:
                self._begin()
            barrier("reference cache: begun")
            self._check_manifest()
            self._read()
            missing = set(self._missing())
            # a share of all rows, so that ranks need not agree on what is missing
            share = list(self.places)[trainer.global_rank :: trainer.world_size]
            mine = [key for key in share if key in missing]
            if mine:
                with isolate_rng():
                    self._compute(mine, source, scorer, trainer)
                torch.cuda.empty_cache()  # the model is gone, and the policy needs its room
            barrier("reference cache: computed")
        self._read()
        if self._missing():
            raise InputError(
                f"{self.folder}: {len(self._missing()):,} pairs are not there after all ranks computed "
                "theirs; name a folder that all nodes share"
            )

    def logps(self, part: str, batch: PairBatch) -> Tensor:
        """fp32 [2B, T] of a batch of the "train" or "val" rows, 0 where masked.

        Raises:
            InputError: a row whose tokens are not those that were scored.
        """
        rows = [self.stored[self._key(part, name)] for name in batch.ids]
        for name, row, tokens in zip(batch.ids, rows, token_hashes(batch), strict=True):
            if row.tokens != tokens:
                raise InputError(
                    f"{self.folder}: row {name}: has other tokens than when its reference was stored; "
                    f"{REMEDY}"
                )
        values = torch.cat([row.logps[k] for k in range(batch.num_responses) for row in rows])
        mask = batch.host.mask
        stored = values.new_zeros(mask.shape).masked_scatter(mask, values)
        return to_device(stored, batch.mask.device)

    def _key(self, part: str, name: str) -> str:
        return key_of_row(part, self.data.collate.negatives, name)

    def _missing(self) -> list[str]:
        return [key for key in self.contents if key not in self.stored]

    def _check_manifest(self) -> None:
        manifest = self.folder / "manifest.json"
        try:
            there = loads(manifest.read_bytes())
            names = [*self.setting, *(n for n in there if n not in self.setting)]
            other = [n for n in names if there.get(n) != self.setting.get(n)]
        except FileNotFoundError:
            if any(self.folder.glob("shard-*")):
                raise InputError(f"{self.folder}: holds shards without a manifest.json; {REMEDY}") from None
            return
        except (OSError, ValueError, AttributeError, TypeError):
            raise InputError(f"{manifest}: not a manifest of a reference cache; {REMEDY}") from None
        if other:
            listed = ", ".join(
                f"{n} ({there.get(n, 'absent')} there, {self.setting.get(n, 'absent')} here)" for n in other
            )
            raise InputError(f"{self.folder}: reference cache of another setting: {listed}; {REMEDY}")

    def _describe(self) -> None:
        """Hash all rows."""
        content = Contents(self.data.collate.negatives)
        with self._bar("checking the reference cache", sum(map(len, self.parts.values()))) as advance:
            for part, pairs in self.parts.items():
                for i in range(len(pairs)):
                    pair = undecoded(pairs, i)
                    key, found = self._key(part, pair.id), content(pair)
                    if self.contents.get(key, found) != found:
                        raise InputError(f"reference_cache: two rows have the id {pair.id}; make ids unique")
                    self.contents[key], self.places[key] = found, (part, i)
                    advance()

    def _read(self) -> None:
        """Take what shards there are; skip damaged ones."""
        for path in sorted(self.folder.glob("shard-*.safetensors")):
            for key, row in _rows_of(path) or ():
                if key in self.contents:
                    self._check_row(key, row.content)
                    self.stored[key] = row

    def _check_row(self, key: str, there: Content) -> None:
        here = self.contents[key]
        other = [name for name in Content._fields if getattr(here, name) != getattr(there, name)]
        if other:
            name = key.partition("/")[2]
            raise InputError(
                f"{self.folder}: row {name}: has other {' and '.join(other)} than when its reference was "
                f"stored; {REMEDY}"
            )

    def _begin(self) -> None:
        """Write the manifest, and take away what killed writers and disks have spoilt."""
        for path in self.folder.glob(".*.tmp"):
            path.unlink(missing_ok=True)
        for path in self.folder.glob("shard-*.safetensors"):
            if _rows_of(path) is None:
                say(f"{path}: damaged; removed, its pairs are computed again")
                path.unlink()
        if not (self.folder / "manifest.json").exists():
            text = json.dumps(self.setting, indent=1) + "\n"
            replace(self.folder / "manifest.json", lambda file: file.write(text.encode()))

    def _compute(self, keys: Sequence[str], source: Any, scorer: Any, trainer: Any) -> None:
        strategy = trainer.strategy
        model = source.reference()
        torch.nn.Module.to(model, strategy.root_device)  # transformers' own refuses quantised weights
        scorer.attach(model)
        pending: dict[str, Stored] = {}
        with self._bar("scoring with the reference", len(keys)) as advance, torch.no_grad():
            for part, pairs in self.parts.items():
                rows = [row for p, row in (self.places[key] for key in keys) if p == part]
                for batch in self.data.rows_dataloader(pairs, rows):
                    batch = batch.to(strategy.root_device)
                    with strategy.precision_plugin.forward_context():
                        logps = scorer.score(model, batch).logps.cpu()
                    pending |= self._as_stored(part, batch, logps)
                    for _ in batch.ids:
                        advance()
                    leaves = trainer.world_size == 1 and preemption.requested()
                    if len(pending) >= SHARD or leaves:
                        self._write(pending)
                        pending = {}
                    if leaves:
                        raise preemption.Preempted("what is computed of the reference cache is stored")
        if pending:
            self._write(pending)

    def _as_stored(self, part: str, batch: PairBatch, logps: Tensor) -> dict[str, Stored]:
        lengths, hashes, found = batch.response_lengths, token_hashes(batch), {}
        for i, name in enumerate(batch.ids):
            key = self._key(part, name)
            own = range(i, len(lengths), len(batch.ids))
            values = tuple(logps[row, : lengths[row]].clone() for row in own)
            found[key] = Stored(self.contents[key], hashes[i], values)
        return found

    def _write(self, rows: Mapping[str, Stored]) -> None:
        said = [[key, *row.content, row.tokens, [len(x) for x in row.logps]] for key, row in rows.items()]
        about = torch.frombuffer(bytearray(json.dumps(said).encode()), dtype=torch.uint8)
        data = save({"rows": about, "logps": torch.cat([x for row in rows.values() for x in row.logps])})
        path = self.folder / f"shard-{hashlib.sha256(data).hexdigest()[:32]}.safetensors"
        replace(path, lambda file: file.write(data))

    def _size(self, missing: Sequence[str]) -> int:
        """Bytes that `missing` will take, from a sample."""
        sample = missing[:: max(1, len(missing) // SAMPLE)]
        places = [self.places[key] for key in sample]
        tokens = sum(self.data.collate.num_response_tokens(undecoded(self.parts[p], i)) for p, i in places)
        return int(len(missing) * (4 * tokens / len(sample) + ABOUT_A_PAIR))

    def _bar(self, what: str, total: int) -> contextlib.AbstractContextManager[Callable[[], None]]:
        return late_bar(what, total) if self.bars else contextlib.nullcontext(lambda: None)


def _rows_of(path: Path) -> Iterator[tuple[str, Stored]] | None:
    """(key, pair) of a shard, or None where it is damaged."""
    try:
        data = path.read_bytes()
        if path.stem != f"shard-{hashlib.sha256(data).hexdigest()[:32]}":
            return None
        tensors = load(data)
        said = loads(tensors["rows"].numpy().tobytes())
        lengths = [n for *_, own in said for n in own]
        values = iter(torch.split(tensors["logps"], lengths))
        rows = [
            (key, Stored(Content(*content), tokens, tuple(next(values) for _ in own)))
            for key, *content, tokens, own in said
        ]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError):
        return None
    return iter(rows)


def _bytes(size: int) -> str:
    unit, name = next((u, n) for u, n in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if size >= u or n == "kB")
    return f"{size / unit:,.{0 if size >= 10 * unit else 1}f} {name}"
