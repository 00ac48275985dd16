"""Compose, validate, build, evaluate, fit, evaluate, report: `python -m uedpo.run [key=value ...]`."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from uedpo.runtime import preemption

if __name__ == "__main__":
    preemption.install()  # before the imports below, which take seconds

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from uedpo.config.build import (
    build_callbacks,
    build_module,
    build_reference_cache,
    build_weigher,
    check_layout,
)
from uedpo.config.overrides import BAD_COMMAND_LINE, check_command_line, conf_folder
from uedpo.config.validate import validate
from uedpo.data.rejects import TooManyRejected, write_rejected
from uedpo.data.spans import check_weights_are_read
from uedpo.errors import ConfigError, GuardError, InputError, Stopped, plain_line, stop_on
from uedpo.results.keys import base_config, key_of, trial_config
from uedpo.results.runs import objective
from uedpo.results.store import OWN_ROWS, append_row, check_appendable, make_row, read_rows, write_rows
from uedpo.runtime import redact
from uedpo.runtime.atomic import replace
from uedpo.runtime.lock import held
from uedpo.runtime.progress import late_bar
from uedpo.runtime.quiet import quiet
from uedpo.runtime.ranks import folder_problems, gpu_problems, launch_problems, rank, world_size
from uedpo.runtime.versions import code_version
from uedpo.sweep.summary import SUMMARY, end_sweep, sweep_exit_code
from uedpo.sweep.trial import run_trial


def run(cfg: DictConfig) -> str | None:
    """One experiment; returns why there was nothing to do, or None."""
    redact.install()
    validate(cfg)
    stop_on(launch_problems(cfg.trainer))
    preemption.imported()
    folder = Path(HydraConfig.get().runtime.output_dir)
    with held(folder) if rank() == 0 else contextlib.nullcontext():
        stored = use_stored(cfg, folder)
        if stored is None:
            from uedpo.logger.wandb import closing  # imports Lightning, which a stored trial does without

            with closing():
                train(cfg, folder)
    return stored


def use_stored(cfg: DictConfig, folder: Path) -> str | None:
    """Write what the results file has of this trial to `folder`, and say so; None where it has nothing.

    Raises:
        InputError: a file that cannot be written, a broken line, or a run without an evaluation.
    """
    if not cfg.get("results"):
        return None
    if "_target_" not in cfg.evaluation:
        raise InputError(f"results={cfg.results}: evaluation=none measures nothing to store; choose another")
    check_appendable(Path(cfg.results))
    rows = read_rows(Path(cfg.results))
    row, base = rows.get(key_of(trial_config(cfg))), rows.get(key_of(base_config(cfg)))
    if row is None:
        return None
    OmegaConf.save(cfg, folder / "config.yaml", resolve=True)
    write_rows(folder / OWN_ROWS, [r for r in (base, row) if r is not None])
    metrics = {"before": base["metrics"] if base else None, "after": row["metrics"]}
    write_json(folder / "metrics.json", metrics)
    stored = f"{cfg.results} has this trial (key {row['key']}, commit {row['commit']})"
    print(f"skipped: {stored}")
    return stored


def train(cfg: DictConfig, folder: Path) -> None:
    """Evaluate the base model, fit, evaluate, store, report."""
    import pytorch_lightning as pl

    from uedpo.logger.wandb import log_end, log_start

    stop_on(gpu_problems(cfg.trainer))
    quiet()
    begin = time.perf_counter()
    code_version()  # now: files may change while this runs
    if cfg.threads:
        import torch

        torch.set_num_threads(cfg.threads)
    pl.seed_everything(cfg.seed, verbose=False)

    source = instantiate(cfg.model)
    processor = source.processor()
    source.check(processor, source.config())
    hint = source.pin_hint(source.config())
    if hint and rank() == 0:
        print(hint)
    data = instantiate(cfg.data)(processor=processor, seed=cfg.seed)
    data.report(folder)
    if cfg.trainer.val_every_n_batches:
        data.check_ranks(cfg.trainer.devices * cfg.trainer.num_nodes, cfg.trainer.strategy == "fsdp")
    corruption = instantiate(cfg.corruption, seed=cfg.seed)
    io, start = find_start(cfg, data, folder)
    stored = build_reference_cache(cfg, source, processor, data)
    module = build_module(cfg, source, corruption, stored)
    module.scorer.check(source.config(), source.attn_implementation)
    check_layout(source.config(), data, corruption)
    evaluation = instantiate(cfg.evaluation) if "_target_" in cfg.evaluation else None
    weigher = build_weigher(cfg, corruption)
    check_weights_are_read(data.train, module.asked, weigher is not None)
    loggers = [instantiate(c, save_dir=str(folder)) for c in cfg.logger.values() if c is not None]
    callbacks = [*([weigher] if weigher else []), *build_callbacks(cfg)]
    options = {"default_root_dir": str(folder), "plugins": [io], "timeout": cfg.timeout}
    trainer = instantiate(cfg.trainer, callbacks=callbacks, logger=loggers, **options)
    log_start(loggers, trial_config(cfg))
    before = base_evaluation(cfg, evaluation, source, processor, folder) if evaluation else None
    pl.seed_everything(cfg.seed, verbose=False)  # a run must not depend on whether it evaluated the base
    with preemption.deferred():
        trainer.fit(module, data, ckpt_path=start, weights_only=True)
    if trainer.global_step != cfg.trainer.max_steps:
        raise RuntimeError(f"stopped at step {trainer.global_step} of {cfg.trainer.max_steps}")
    module.gather()
    if not trainer.is_global_zero:
        return
    module.policy.save_pretrained(folder / ("model" if cfg.model.lora is None else "adapter"))
    after = evaluate(cfg, evaluation, module.policy, processor, "policy") if evaluation else None
    metrics = after.metrics if after else None
    write_json(folder / "metrics.json", {"before": before, "after": metrics})
    seconds = time.perf_counter() - begin
    if after:
        store(cfg, make_row(trial_config(cfg), after.metrics, after.counts, seconds), folder)
    from uedpo.report.page import write_report
    from uedpo.report.record import records

    found = records(cfg, module, processor, data, weigher, seconds)
    for name, value in found.items():
        write_json(folder / name, value)
    log_end(loggers, before, metrics, found.get("traces.json", []), trainer.global_step)
    page = write_report(folder)
    print(f"done in {time.perf_counter() - begin:.0f} s: open {page}")


def store(cfg: DictConfig, row: dict[str, Any], folder: Path) -> None:
    """Keep a trial's row in its directory, and in the results file if there is one."""
    write_rows(folder / OWN_ROWS, [row])
    if cfg.get("results"):
        append_row(Path(cfg.results), row)


def find_start(cfg: DictConfig, data: Any, folder: Path) -> tuple[Any, Path | None]:
    """(checkpoint plugin, checkpoint to continue from or None); saves config.yaml once that is settled.

    Raises:
        InputError: see `uedpo.callbacks.checkpoint_files.choose`.
    """
    from uedpo.callbacks.checkpoint_files import Identity, VerifiedIO, choose, sweep

    io = VerifiedIO(Identity(trial_config(cfg), data.fingerprint()))
    start = choose(cfg.resume, folder / "checkpoints", io)
    if rank() == 0:
        sweep(folder / "checkpoints")
        OmegaConf.save(cfg, folder / "config.yaml", resolve=True)
    return io, start


def evaluate(cfg: DictConfig, evaluation: Any, model: Any, processor: Any, name: str) -> Any:
    """Run an evaluation behind a progress bar (none where the config turns bars off)."""
    show = bool(cfg.callbacks.get("progress"))
    with late_bar(f"evaluating the {name}", evaluation.num_scenes, show) as advance:
        return evaluation.run(model, processor, advance)


def base_evaluation(
    cfg: DictConfig, evaluation: Any, source: Any, processor: Any, folder: Path
) -> dict[str, Any]:
    """Metrics of the untrained model; the runs of a sweep share one file of them."""
    config = base_config(cfg)
    stored = read_rows(Path(cfg.results)).get(key_of(config)) if cfg.get("results") else None
    if stored is not None:
        return dict(stored["metrics"])
    sweep = Path(HydraConfig.get().sweep.dir) if HydraConfig.get().mode == RunMode.MULTIRUN else folder
    file = sweep / f"base_{key_of(config)}.json"
    if not file.is_file():
        begin = time.perf_counter()
        before = evaluate(cfg, evaluation, source.base(), processor, "base model")
        write_json(file, before.metrics)
        if cfg.get("results"):
            seconds = time.perf_counter() - begin
            append_row(Path(cfg.results), make_row(config, before.metrics, before.counts, seconds))
    return dict(json.loads(file.read_text()))


def write_json(path: Path, value: Any) -> None:
    """A JSON file that parallel runs of a sweep never see half of."""
    text = json.dumps(value, indent=1) + "\n"
    replace(path, lambda file: file.write(text.encode()))


@hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")
def _job(cfg: DictConfig) -> float | None:
    if HydraConfig.get().mode != RunMode.MULTIRUN:
        _one(cfg)
        return None
    redact.install()  # in launchers' processes too
    folder = run_trial(cfg, _one)
    try:
        return objective(folder, cfg.get("metric"), cfg.get("mode")) if folder else None
    except InputError as error:  # before all trials have trained for a metric that none has
        _stop(error)


def _one(cfg: DictConfig) -> str | None:
    """`run`; bad input is one line and an exit code."""
    try:
        return run(cfg)
    except ConfigError as error:
        _stop(error)
    except InputError as error:
        _stop(error)
    except GuardError as error:
        _stop(error, 3)
    except InstantiationException as error:
        if not isinstance(error.__cause__, (ValueError, ImportError, OSError)):
            raise
        _stop(error.__cause__)
    except Exception as error:
        if world_size() > 1:  # before the tracebacks of all ranks
            line = str(error).strip().splitlines()[:1]
            print(f"rank {rank()} stopped: {type(error).__name__}: {' '.join(line)}", file=sys.stderr)
        raise


def _stop(error: BaseException, code: int = 2) -> NoReturn:
    if isinstance(error, TooManyRejected) and HydraConfig.initialized():
        write_rejected(Path(HydraConfig.get().runtime.output_dir) / "rejected.jsonl", error.rejected)
    print(plain_line(error), file=sys.stderr)
    raise Stopped(plain_line(error), code)


def main() -> None:
    """Entry point: exit code 0 done, 2 bad configuration or input, 3 guard, 4 failed trials, 75 preempted."""
    preemption.install()
    redact.install()
    arguments = get_args_parser().parse_args()
    try:
        check_command_line(arguments)
        stop_on(folder_problems(arguments.overrides))
    except BAD_COMMAND_LINE as error:
        _stop(error)
    if arguments.config_path or arguments.config_name:  # a saved configuration has nothing of Hydra's
        sys.argv.append(f"++hydra.callbacks.summary._target_={SUMMARY}")
    if rank():  # rank 0's notes and log are those of the run
        sys.argv += ["hydra.output_subdir=null", "hydra/job_logging=stdout"]
    try:
        _job()
    except SystemExit as error:
        if error.code == 1:  # the sweeper itself gave up: what its trials did is told all the same
            end_sweep()
        raise
    sys.exit(sweep_exit_code())


if __name__ == "__main__":
    main()
