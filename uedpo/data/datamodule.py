"""One data module for every preference dataset, with an order that a resumed run continues."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from uedpo.data.collate import PairCollator
from uedpo.data.fingerprint import digest, fingerprint
from uedpo.data.images import check_image
from uedpo.data.overlap import find_overlap
from uedpo.data.rejects import write_rejected
from uedpo.data.rows import CheckedPairs, Source, contents
from uedpo.data.texts import TextRules
from uedpo.errors import InputError
from uedpo.runtime.progress import late_bar
from uedpo.runtime.say import say
from uedpo.types import Fraction, NonNegativeInt, PairBatch, PositiveInt, PreferencePair


class PairBatches:
    """Index lists of every micro-batch of a whole training run: a function of (seed, position).

    Each epoch is a permutation that depends on (seed, epoch) only. `len` is that of the whole run
    even when `start` skips what a resumed run has already seen, because Lightning counts so.
    """

    def __init__(
        self, num_rows: int, batch_size: int, num_batches: int, *, seed: int, start: int = 0,
        rank: int = 0, world_size: int = 1,
    ) -> None:  # fmt: skip
        if num_rows < 1:
            raise ValueError("no rows to train on")
        self.num_rows, self.batch_size, self.num_batches = num_rows, batch_size, num_batches
        self.seed, self.start, self.rank, self.world_size = seed, start, rank, world_size

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[list[int]]:
        size = self.batch_size * self.world_size
        orders: dict[int, np.ndarray] = {}
        for position in range(self.start, self.num_batches):
            rows = []
            for i in range(position * size, (position + 1) * size):
                epoch, offset = divmod(i, self.num_rows)
                if epoch not in orders:
                    orders = {epoch: np.random.default_rng([self.seed, epoch]).permutation(self.num_rows)} | {
                        e: o for e, o in orders.items() if e == epoch - 1
                    }
                rows.append(int(orders[epoch][offset]))
            yield rows[self.rank :: self.world_size]


def check_pairs(
    pairs: CheckedPairs, processor: Any, max_response_tokens: int, negatives: bool, decode: bool
) -> None:
    """Reject what only the model's processor, or decoding every image, shows to be unusable.

    Raises:
        InputError: too many rows are rejected.
    """
    rules = TextRules(processor, max_response_tokens, negatives, pairs.ledger)
    pictures: set[Source] = set()

    def check(pair: PreferencePair) -> None:
        advance()
        rules(pair)
        for source in (*pair.images, *pair.rejected_images) if decode else ():
            if source not in pictures:
                check_image(contents(source), decode=True)
                pictures.add(source)

    with late_bar("checking rows", len(pairs)) as advance:
        pairs.keep(check)


def _leave_signals_to_the_run(worker: int) -> None:
    # schedulers and Ctrl-C signal every process of a job; the step that is to be finished needs its data
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class PairDataModule(pl.LightningDataModule):
    """Batches of a training and a validation dataset.

    Args:
        train, val: sequences of `PreferencePair`.
        processor: of the model.
        batch_size: pairs per micro-batch and device.
        max_response_tokens: longest response kept.
        num_workers: loader processes.
        negatives: carry the rows' further negatives (NaPO).
        seed: of the data order.
        max_bad_fraction: share of the rows of a file that may be rejected, see docs/data.md; datasets that
            read files get it too.
        decode_check: decode every image now, so that a broken one is rejected and not met while training.
        overlap: what to do where validation pairs of a file are in training, by id or by picture.

    Raises:
        InputError: too many rows cannot be used with this model, or an overlap that is not allowed.
    """

    def __init__(
        self,
        train: Sequence[PreferencePair],
        val: Sequence[PreferencePair],
        processor: Any,
        *,
        batch_size: PositiveInt = 16,
        max_response_tokens: PositiveInt = 512,
        num_workers: NonNegativeInt = 0,
        negatives: bool = False,
        seed: int = 0,
        max_bad_fraction: Fraction = 0.001,
        decode_check: bool = False,
        overlap: Literal["warn", "stop"] = "warn",
    ) -> None:
        super().__init__()
        for part in (train, val):
            if isinstance(part, CheckedPairs):
                part.max_bad_fraction = max_bad_fraction
                check_pairs(part, processor, max_response_tokens, negatives, decode_check)
        self.train, self.val = train, val
        self.warning = self._overlap(stop=overlap == "stop")
        self.collate = PairCollator(processor, max_response_tokens, negatives)
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed

    def _overlap(self, stop: bool) -> str | None:
        if not (isinstance(self.train, CheckedPairs) and isinstance(self.val, CheckedPairs)):
            return None
        found = find_overlap(self.train, self.val)
        if not any(found):
            return None
        line = found.summary(self.train, self.val)
        if stop:
            raise InputError(line)
        return f"WARNING: {line}"

    def report(self, folder: Path) -> None:
        """Print what became of the rows of each file, and write `folder`/rejected.jsonl."""
        ledgers = [part.ledger for part in (self.train, self.val) if isinstance(part, CheckedPairs)]
        for ledger in ledgers:
            say(ledger.summary())
        if self.warning:
            say(self.warning)
        if ledgers:
            write_rejected(folder / "rejected.jsonl", [r for ledger in ledgers for r in ledger.rejected])

    def train_dataloader(self) -> DataLoader[Any]:
        trainer = self.trainer
        assert trainer is not None
        batches = PairBatches(
            len(self.train),
            self.batch_size,
            trainer.max_steps * trainer.accumulate_grad_batches,
            seed=self.seed,
            start=trainer.global_step * trainer.accumulate_grad_batches,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )
        return self._loader(self.train, batch_sampler=batches)

    def fingerprint(self) -> str:
        """Hash of training and validation rows."""
        return digest([fingerprint(self.train), fingerprint(self.val)])

    def check_ranks(self, ranks: int, sharded: bool) -> None:
        """Whether so many ranks can share the validation pairs.

        Raises:
            InputError: a rank would have none, or, with sharded weights, fewer batches than another.
        """
        if len(self.val) < ranks or (sharded and len(self.val) % ranks):
            raise InputError(
                f"{len(self.val)} validation pairs for {ranks} ranks: the others would wait for a rank that "
                f"has fewer; use {'a multiple of that' if sharded else 'more'}, or "
                "trainer.val_every_n_batches=0"
            )

    def val_dataloader(self) -> DataLoader[Any]:
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        return self.rows_dataloader(self.val, range(rank, len(self.val), world))

    def rows_dataloader(self, pairs: Sequence[PreferencePair], rows: Sequence[int]) -> DataLoader[Any]:
        """Batches of some rows of `pairs`, in their order."""
        return self._loader(pairs, sampler=rows, batch_size=self.batch_size)

    def _loader(self, pairs: Sequence[PreferencePair], **options: Any) -> DataLoader[Any]:
        # own generator: iter(DataLoader) otherwise draws from the global one, and a resumed run differs
        return DataLoader(
            pairs,  # type: ignore[arg-type]
            collate_fn=self.collate,
            num_workers=self.num_workers,
            generator=torch.Generator().manual_seed(self.seed),
            worker_init_fn=_leave_signals_to_the_run,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
            **options,
        )

    def transfer_batch_to_device(
        self, batch: PairBatch, device: torch.device, dataloader_idx: int
    ) -> PairBatch:
        return batch.to(device)
