"""One run as an object: built and checked from a configuration, then evaluated, trained, evaluated, reported.

`python -m uedpo.run`, the trials of a sweep and a notebook use it alike (docs/python.md).
"""

from __future__ import annotations

import contextlib
import json
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from uedpo.callbacks.checkpoint_files import Identity, VerifiedIO, checkpoints, choose, sweep
from uedpo.config.build import (
    build_callbacks,
    build_module,
    build_reference_cache,
    build_weigher,
    check_layout,
)
from uedpo.config.effective import effective_lines
from uedpo.config.validate import validate
from uedpo.data.spans import check_weights_are_read
from uedpo.errors import InputError, out_of_memory, stop_on
from uedpo.logger.wandb import log_end, log_start
from uedpo.report.page import write_report
from uedpo.report.record import records
from uedpo.results.keys import base_config, key_of, trial_config
from uedpo.results.runs import accept, check_free
from uedpo.results.store import OWN_ROWS, append_row, make_row, read_rows, write_rows
from uedpo.runtime import preemption
from uedpo.runtime.atomic import clear, whole_folder, write_json
from uedpo.runtime.folders import unmake
from uedpo.runtime.lock import held, wait_for
from uedpo.runtime.progress import late_bar
from uedpo.runtime.quiet import quiet
from uedpo.runtime.ranks import gpu_problems, launch_problems, rank
from uedpo.runtime.say import say
from uedpo.runtime.versions import code_version


@dataclass
class Experiment:
    """A run in its directory. Call `evaluate_base`, `fit`, `evaluate` and `report` in this order, or `run`.

    Every rank of a distributed run calls the same methods. Rank 0 evaluates, and writes what is written.

    Attributes:
        folder: the run directory.
        trial: what determines the run, resolved and plain.
        base: what determines the evaluation of the untrained model.
        base_file: where that evaluation is kept; the trials of a sweep share one file.
        results: file of finished trials that gets this one's row, or None.
        source: where policy and reference come from.
        processor: of the model.
        data: the Lightning data module.
        module: `PreferenceModule`, the policy and its frozen reference.
        trainer: the Lightning trainer.
        weigher: the callback that weighs tokens, or None.
        evaluation: what measures a model, or None.
        start: the checkpoint to continue from, or None.
        report_pairs: validation pairs that the report shows.
        bars: whether long steps show a bar.
        seed: of adapter initialisation and data order.
    """

    folder: Path
    trial: dict[str, Any]
    base: dict[str, Any]
    base_file: Path
    results: Path | None
    source: Any
    processor: Any
    data: Any
    module: Any
    trainer: pl.Trainer
    weigher: Any
    evaluation: Any
    start: Path | None
    report_pairs: int
    bars: bool
    seed: int
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None
    _begin: float = field(default_factory=time.perf_counter)

    @classmethod
    def from_config(
        cls,
        cfg: DictConfig,
        folder: Path | str,
        shared: Path | None = None,
        overrides: Sequence[str] | None = None,
    ) -> Experiment:
        """Build and check everything but the weights; write the configuration to `folder`.

        Args:
            cfg: of `uedpo.compose`.
            folder: the run directory, held by this process for as long as the experiment lives.
            shared: folder of the untrained model's evaluation; default: `folder`.
            overrides: of the command line that asked for it; kept in command.json.

        Raises:
            ConfigError: naming all problems of the configuration.
            InputError: model, data or an earlier run in `folder` cannot be used; `folder` is unchanged.
        """
        begin, folder = time.perf_counter(), Path(folder)
        validate(cfg)
        stop_on([*launch_problems(cfg.trainer), *gpu_problems(cfg.trainer)])
        quiet()
        code_version()  # now: files may change while this runs
        if cfg.threads:
            torch.set_num_threads(cfg.threads)
        pl.seed_everything(cfg.seed, verbose=False)
        opened = contextlib.ExitStack()
        try:
            if rank() == 0:
                opened.enter_context(held(folder, signed=False))
                if not checkpoints(folder / "checkpoints"):  # by which `choose` would know a run
                    check_free(folder, key_of(trial_config(cfg)))
            parts, start, io = _parts(cfg, folder)
            trainer = _trainer(cfg, folder, parts["weigher"], io)
        except BaseException:
            opened.close()
            unmake()
            raise
        if rank() == 0:
            accept(cfg, folder, overrides)
            say("\n".join(effective_lines(cfg, parts["source"].config())))
            _tidy(folder, afresh=start is None)
            parts["data"].report(folder)
        made = cls(
            folder=folder,
            trial=trial_config(cfg),
            base=base_config(cfg),
            base_file=(shared or folder) / f"base_{key_of(base_config(cfg))}.json",
            results=Path(cfg.results) if cfg.results else None,
            trainer=trainer,
            start=start,
            report_pairs=cfg.report_pairs,
            bars=bool(cfg.callbacks.get("progress")),
            seed=cfg.seed,
            **parts,
            _begin=begin,
        )
        weakref.finalize(made, opened.close)  # at the latest when Python ends, while its modules are there
        return made

    @property
    def device(self) -> torch.device:
        """Where the model trains, and where everything else about it runs."""
        return self.trainer.strategy.root_device

    def run(self) -> Path | None:
        """All of it; returns the report, None on ranks other than the first."""
        self.evaluate_base()
        self.fit()
        self.evaluate()
        return self.report()

    def evaluate_base(self) -> dict[str, Any] | None:
        """Metrics of the untrained model: split -> metric -> {value, low, high, numerator, denominator}.

        Rank 0 measures what no file has yet. The other ranks wait for it and get None, as everyone does
        without an evaluation.
        """
        if self.evaluation is None:
            return None
        if rank():
            wait_for(self.base_file)
            return None
        if not self.base_file.is_file():
            write_json(self.base_file, self._base_metrics())
        self.before = dict(json.loads(self.base_file.read_text()))
        return self.before

    def fit(self) -> None:
        """Train, and save the adapter (without LoRA: the model) in the run directory.

        Raises:
            GuardError: a loss, gradient or weight that is not finite.
            Preempted: the process was told to stop; the run is saved.
        """
        log_start(self.trainer.loggers, self.trial)
        if rank() == 0:
            say(f"attention: {self.module.attention(self.trainer)}")
        pl.seed_everything(self.seed, verbose=False)  # a run must not depend on whether it evaluated the base
        with preemption.deferred(), self._memory(self._progress):
            self.trainer.fit(self.module, self.data, ckpt_path=self.start, weights_only=True)
        if self.trainer.global_step != self.trainer.max_steps:
            raise RuntimeError(f"stopped at step {self.trainer.global_step} of {self.trainer.max_steps}")
        self.module.gather()
        if self.trainer.is_global_zero:
            self.module.to(self.device)  # Lightning leaves the weights on the CPU
            adapted = self.source.lora is not None
            with whole_folder(self.folder / ("adapter" if adapted else "model"), anew=True) as place:
                self.module.policy.save_pretrained(place)

    def evaluate(self) -> dict[str, Any] | None:
        """Metrics of the trained model, as those of `evaluate_base`; writes metrics.json and a row.

        Raises:
            RuntimeError: before `fit`.
        """
        self._check_trained("evaluate")
        if not self.trainer.is_global_zero:
            return None
        measured = None if self.evaluation is None else self._measure(self.module.policy, "policy")
        self.after = None if measured is None else measured.metrics
        write_json(self.folder / "metrics.json", {"before": self.before, "after": self.after})
        if measured is not None:
            row = make_row(self.trial, measured.metrics, measured.counts, self._seconds())
            write_rows(self.folder / OWN_ROWS, [row])
        return self.after

    def report(self) -> Path | None:
        """Trace the validation pairs that the report shows, log the end, write report.html, add the row.

        Raises:
            RuntimeError: before `fit`.
        """
        self._check_trained("report")
        if not self.trainer.is_global_zero:
            return None
        files = records(
            self.module, self.processor, self.data, self.weigher, report_pairs=self.report_pairs,
            setting=key_of(self.trial), seconds=self._seconds(), bars=self.bars,
        )  # fmt: skip
        for name, value in files.items():
            write_json(self.folder / name, value)
        traces = files.get("traces.json", [])
        log_end(self.trainer.loggers, self.before, self.after, traces, self.trainer.global_step)
        page = write_report(self.folder)
        self._store()
        say(f"done in {self._seconds():.0f} s: open {page}")
        return page

    def _check_trained(self, step: str) -> None:
        if self.trainer.global_step < self.trainer.max_steps:
            raise RuntimeError(f"{step}() is of the trained model; call fit() first")

    def _base_metrics(self) -> Mapping[str, Any]:
        stored = read_rows(self.results).get(key_of(self.base)) if self.results else None
        if stored is not None:
            return dict(stored["metrics"])
        begin = time.perf_counter()
        with self._memory(lambda: "while loading the base model"):
            model = self.source.base()
            torch.nn.Module.to(model, self.device)  # transformers' own refuses quantised weights
        measured = self._measure(model, "base model")
        if self.results:
            seconds = time.perf_counter() - begin
            append_row(self.results, make_row(self.base, measured.metrics, measured.counts, seconds))
        return dict(measured.metrics)

    def _store(self) -> None:
        """Add the row to the file of finished trials: last, as a trial with a row there never runs again."""
        row = read_rows(self.folder / OWN_ROWS).get(key_of(self.trial))
        if self.results and row is not None and row["key"] not in read_rows(self.results):
            append_row(self.results, row)

    def _measure(self, model: Any, name: str) -> Any:
        bar = late_bar(f"evaluating the {name}", self.evaluation.num_scenes, self.bars)
        with self._memory(lambda: f"while evaluating the {name}"), bar as advance:
            return self.evaluation.run(model, self.processor, advance)

    def _progress(self) -> str:
        if self.module.policy is None:
            return "while loading the model"
        step = min(self.trainer.global_step + 1, self.trainer.max_steps)  # the last validation is after it
        return f"in step {step} of {self.trainer.max_steps}"

    @contextlib.contextmanager
    def _memory(self, where: Callable[[], str]) -> Iterator[None]:
        """One line where memory is used up, with what makes a run smaller.

        Raises:
            InputError: it is used up.
        """
        try:
            yield
        except Exception as error:
            if not out_of_memory(error):
                raise
            reason = " ".join(str(error).split())[:160]
            raise InputError(
                f"out of memory on {self.device} {where()} ({reason}); {smaller(self.trial)}; python -m "
                "uedpo.plan with the same keys counts what each change saves"
            ) from None

    def _seconds(self) -> float:
        return time.perf_counter() - self._begin


def smaller(trial: Mapping[str, Any]) -> str:
    """What of a configuration to change where memory does not do."""
    model, data, trainer = trial["model"], trial["data"], trial["trainer"]
    size = data.get("batch_size", 1)
    accumulate = size * trainer.get("accumulate_grad_batches", 1)
    changes = [
        (not model.get("gradient_checkpointing"), "model.gradient_checkpointing=true"),
        (size > 1, f"data.batch_size=1 trainer.accumulate_grad_batches={accumulate}"),
        (trial.get("scoring") == "plain", "scoring=prefix_shared"),
        (model.get("lora") is None, "an adapter (model.lora) in the place of the whole model"),
        (trainer.get("accelerator") == "gpu" and not model.get("quantize"), "model.quantize=4bit"),
    ]
    named = [change for helps, change in changes if helps] or ["a smaller model or a larger device"]
    return f"try {', '.join(named)}"


def _tidy(folder: Path, afresh: bool) -> None:
    """Remove what a stopped run left that is none of this one's."""
    if afresh:
        (folder / "metrics.json").unlink(missing_ok=True)
    clear(folder)
    sweep(folder / "checkpoints")


def _parts(cfg: DictConfig, folder: Path) -> tuple[dict[str, Any], Path | None, VerifiedIO]:
    """(what the run is made of, by its attribute; checkpoint to continue from; checkpoint plugin).

    Nothing is written: an earlier run in `folder` may be one that must not be touched.
    """
    source = instantiate(cfg.model)
    processor = source.processor()
    source.check(processor, source.config())
    for hint in (source.pin_hint(source.config()), source.pad_hint(), source.time_hint(processor)):
        if hint and rank() == 0:
            say(hint)
    data = instantiate(cfg.data)(processor=processor, seed=cfg.seed)
    if cfg.trainer.val_every_n_batches:
        data.check_ranks(cfg.trainer.devices * cfg.trainer.num_nodes, cfg.trainer.strategy == "fsdp")
    io = VerifiedIO(Identity(trial_config(cfg), data.fingerprint()))
    start = choose(cfg.resume, folder / "checkpoints", io)
    corruption = instantiate(cfg.corruption, seed=cfg.seed)
    module = build_module(cfg, source, corruption, build_reference_cache(cfg, source, processor, data))
    module.scorer.check(source.config(), source.attn_implementation)
    check_layout(source.config(), data, corruption)
    weigher = build_weigher(cfg, corruption)
    check_weights_are_read(data.train, module.requested_inputs, weigher is not None)
    parts = {
        "source": source,
        "processor": processor,
        "data": data,
        "module": module,
        "weigher": weigher,
        "evaluation": instantiate(cfg.evaluation) if "_target_" in cfg.evaluation else None,
    }
    return parts, start, io


def _trainer(cfg: DictConfig, folder: Path, weigher: Any, io: VerifiedIO) -> pl.Trainer:
    batches = cfg.trainer.max_steps * cfg.trainer.accumulate_grad_batches
    if cfg.trainer.val_every_n_batches > batches and rank() == 0:
        say(
            f"trainer.val_every_n_batches={cfg.trainer.val_every_n_batches}: the run has {batches} "
            "micro-batches, so it validates once, at its end"
        )
    trainer: pl.Trainer = instantiate(
        cfg.trainer,
        callbacks=[*([weigher] if weigher else []), *build_callbacks(cfg)],
        logger=[instantiate(c, save_dir=str(folder)) for c in cfg.logger.values() if c is not None],
        default_root_dir=str(folder),
        plugins=[io],
        timeout=cfg.timeout,
    )
    return trainer
