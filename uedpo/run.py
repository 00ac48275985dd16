"""Compose, validate, build, evaluate, fit, evaluate, report: `python -m uedpo.run [key=value ...]`."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from uedpo.types import InputError
from uedpo.validate import ConfigError, validate


def conf_folder() -> Path:
    """conf/ of the checkout, or the copy inside an installed package."""
    package = Path(__file__).parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def check_overrides(overrides: list[str]) -> None:
    """Validate what the command line asks for, each value of a sweep too, before Hydra's own checks.

    Hydra stops at the first unknown key; here keys are added by force, so that `validate` names
    all of them with the nearest one.

    Raises:
        ConfigError: naming all problems.
    """
    parsed = OverridesParser.create().parse_overrides(overrides)
    fixed: list[str] = []
    swept: list[tuple[int, list[str]]] = []
    for override in parsed:
        key = override.get_key_element()
        is_group = (conf_folder() / override.key_or_group).is_dir() or key.startswith("hydra")
        prefix = "" if is_group or override.is_delete() else "++"
        if override.is_sweep_override():
            choices = [f"{prefix}{key}={value}" for value in override.sweep_string_iterator()]
            swept.append((len(fixed), choices))
            fixed.append(choices[0])
        else:
            line = override.input_line or ""
            fixed.append(prefix + line.lstrip("+") if prefix else line)
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        named = {override.key_or_group for override in parsed}
        whole = compose("config", fixed, return_hydra_config=True)
        for key, values in (whole.hydra.sweeper.params or {}).items():  # the experiment's own sweep
            if key.lstrip("+") not in named:
                choices = [f"{key}={value.strip()}" for value in str(values).split(",")]
                swept.append((len(fixed), choices))
                fixed.append(choices[0])
        validate(compose("config", fixed))
        for at, choices in swept:
            for choice in choices[1:]:
                validate(compose("config", [*fixed[:at], choice, *fixed[at + 1 :]]))


def run(cfg: DictConfig) -> float | None:
    """One experiment; returns CHAIR_i of the trained policy on shifted scenes, for sweepers."""
    validate(cfg)
    import pytorch_lightning as pl

    _quiet()
    folder = Path(HydraConfig.get().runtime.output_dir)
    sweep = Path(HydraConfig.get().sweep.dir) if HydraConfig.get().mode == RunMode.MULTIRUN else folder
    begin = time.perf_counter()
    if cfg.threads:
        import torch

        torch.set_num_threads(cfg.threads)
    pl.seed_everything(cfg.seed, verbose=False)
    OmegaConf.save(cfg, folder / "config.yaml", resolve=True)

    source = instantiate(cfg.model)
    processor = source.processor()
    data = instantiate(cfg.data)(processor=processor, seed=cfg.seed)
    module = build_module(cfg, source)
    data.collate([data.train[0]])  # what the processor makes is carried, or refused before weights load
    evaluation = instantiate(cfg.evaluation) if "_target_" in cfg.evaluation else None
    probe = instantiate(cfg.weights, seed=cfg.seed) if "_target_" in cfg.weights else None
    callbacks = [instantiate(c) for c in cfg.callbacks.values() if c is not None]
    loggers = [instantiate(c, save_dir=str(folder)) for c in cfg.logger.values() if c is not None]
    trainer = instantiate(
        cfg.trainer,
        callbacks=[*([probe] if probe else []), *callbacks],
        logger=loggers,
        default_root_dir=str(folder),
    )
    before = base_evaluation(cfg, evaluation, source, processor, sweep) if evaluation else None
    pl.seed_everything(cfg.seed, verbose=False)  # a run must not depend on whether it evaluated the base
    trainer.fit(module, data, ckpt_path=cfg.resume, weights_only=True)
    if trainer.global_step != cfg.trainer.max_steps:
        raise RuntimeError(f"stopped at step {trainer.global_step} of {cfg.trainer.max_steps}")
    if trainer.checkpoint_callback:
        trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt")
    if not trainer.is_global_zero:
        return None
    module.policy.save_pretrained(folder / ("model" if cfg.model.lora is None else "adapter"))
    after = evaluate(cfg, evaluation, module.policy, processor, "policy") if evaluation else None
    write_json(folder / "metrics.json", {"before": before, "after": after})
    from uedpo.report.page import write_report
    from uedpo.report.trace import trace_pairs

    shown = [data.val[i] for i in range(min(4, len(data.val)))]
    write_json(folder / "traces.json", trace_pairs(module, processor, shown, probe))
    page = write_report(folder)
    print(f"done in {time.perf_counter() - begin:.0f} s: open {page}")
    return after["shift"]["chair_i"]["value"] if after and "shift" in after else None


def build_module(cfg: DictConfig, source: Any) -> Any:
    from uedpo.module import PreferenceModule

    return PreferenceModule(source, instantiate(cfg.loss), instantiate(cfg.optim), val_beta=cfg.loss.beta)


def evaluate(cfg: DictConfig, evaluation: Any, model: Any, processor: Any, name: str) -> dict[str, Any]:
    """Run an evaluation behind a progress bar (none where the config turns bars off)."""
    from rich.progress import Progress

    with Progress(disable=not cfg.callbacks.get("progress")) as bars:
        task = bars.add_task(f"evaluating the {name}", total=evaluation.num_scenes)
        result: dict[str, Any] = evaluation.run(model, processor, lambda n: bars.advance(task, n))
        return result


def base_evaluation(
    cfg: DictConfig, evaluation: Any, source: Any, processor: Any, sweep: Path
) -> dict[str, Any]:
    """Metrics of the untrained model; the runs of a sweep share one file of them."""
    model = {k: v for k, v in OmegaConf.to_container(cfg.model, resolve=True).items() if k != "lora"}
    key = json.dumps([model, OmegaConf.to_container(cfg.evaluation, resolve=True)], sort_keys=True)
    file = sweep / f"base_{hashlib.sha256(key.encode()).hexdigest()[:12]}.json"
    if not file.is_file():
        write_json(file, evaluate(cfg, evaluation, source.base(), processor, "base model"))
    metrics: dict[str, Any] = json.loads(file.read_text())
    return metrics


def write_json(path: Path, value: Any) -> None:
    """Write beside the target and rename: parallel runs of a sweep never read half a file."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    beside.write_text(json.dumps(value, indent=1) + "\n")
    beside.replace(path)


def _quiet() -> None:
    """Keep the libraries' notices off the screen, in this process and in workers of a sweep alike."""
    import pytorch_lightning  # noqa: F401  (sets its logger's level when first imported)
    from transformers.utils import logging as transformers_logging

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    for message in ("does not have many workers", "is_gradient_checkpointing", "is not empty", "LeafSpec"):
        warnings.filterwarnings("ignore", message=f".*{message}.*")


@hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")
def _job(cfg: DictConfig) -> float | None:
    try:
        return run(cfg)
    except ConfigError as error:
        _stop(error)
    except InputError as error:
        _stop(error)
    except InstantiationException as error:
        if not isinstance(error.__cause__, (ValueError, ImportError, OSError)):
            raise
        _stop(error.__cause__)


def _stop(error: BaseException) -> NoReturn:
    print(error, file=sys.stderr)
    sys.exit(2)


def main() -> None:
    """Entry point: exit code 0 done, 2 bad configuration or input."""
    arguments = get_args_parser().parse_args()
    own_config = arguments.config_path or arguments.config_dir or arguments.config_name
    if not own_config:  # `run` validates those
        try:
            check_overrides(arguments.overrides)
        except (ConfigError, HydraException, ValueError, AssertionError) as error:
            _stop(error)
    _job()


if __name__ == "__main__":
    main()
