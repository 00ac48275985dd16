"""A finished run as a folder to publish: `python -m uedpo.export RUN_DIR [output=DIR] [merge=true]`.

Copies the adapter as it is (the model, where the whole language model was trained), or with merge=true
writes a model with the adapter merged into it and compares its logits with those of the adapter. Beside them
a model card, README.md. The folder is RUN_DIR/export/adapter (model, merged) unless output= names another.
Exit code 0: it is there, whole; 2: one line says why it is not, and nothing is.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from uedpo.config.trust import trust_problems
from uedpo.errors import ANOTHER_FOLDER, InputError, local_path, plain_line, stop_on
from uedpo.evaluation.options import command
from uedpo.model.adapter import CONFIG, WEIGHTS, read_options
from uedpo.model.files import INDEX, weight_files
from uedpo.report.card import write_card
from uedpo.results.store import OWN_ROWS
from uedpo.runtime import redact
from uedpo.runtime.atomic import whole_folder
from uedpo.runtime.say import say
from uedpo.runtime.small_json import read_object
from uedpo.runtime.stored_yaml import read_config

NEEDED = ("config.yaml", "metrics.json", "environment.json")  # the last is written when all is done
PUBLISHED = {CONFIG, WEIGHTS, "config.json", "generation_config.json", "model.safetensors", INDEX}
PAIRS = 2  # of the run's data, by which merged weights are compared
# root mean square of the logits' differences, as a share of their standard deviation
TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 0.05}
BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError, OmegaConfBaseException)
ROUNDING = 1e-6  # of that share, below which it is no loss of anything


class Finished(NamedTuple):
    """What a run directory says of its run; `part` is the folder of what it trained."""

    folder: Path
    cfg: DictConfig
    metrics: dict[str, Any]
    environment: dict[str, Any]
    part: str


class Parity(NamedTuple):
    """Logits of merged weights against those of the adapter on its base, over `tokens` response tokens.

    `off` and `moved` are shares of the logits' standard deviation: how far merging moves them, and how
    far the adapter does.
    """

    tokens: int
    off: float
    moved: float
    tolerance: float


def export(run: list[str], output: str | None = None, merge: bool = False) -> int:
    """Write the folder; the exit code.

    Args:
        run: one directory of a run.
        output: a folder that does not exist yet.

    Raises:
        InputError: no finished run, another base model, or merged weights that say something else.
        ConfigError: a configuration that names what it must not.
    """
    if len(run) != 1:
        given = " ".join(run) or "no run"
        raise InputError(f"{given}: give one directory of a run; the keys are output= and merge=")
    found = read_finished(local_path(run[0]))
    source = _built(found.cfg.model)
    check_base(found, source)
    if merge:
        _check_mergeable(found, source)
    kind = "merged" if merge else found.part
    target = local_path(output) if output else found.folder / "export" / kind
    parity = None
    with whole_folder(target) as place:
        if merge:
            parity = write_merged(place, found, source)
            say(_told(parity))
        else:
            _copy(found, source, place)
        write_card(place, kind, found.cfg, found.metrics, found.environment, _adapter(found), parity)
    # a relative folder looks like a hub id there
    if kind == "adapter" and found.environment.get("model_sha256"):
        say(
            "adapter_config.json names the base model by a folder of this machine; before you publish it, "
            "set base_model_name_or_path to the model's hub id"
        )
    say(f"open {target / 'README.md'}")
    return 0


def read_finished(folder: Path) -> Finished:
    """A run that is over, with what it trained.

    Raises:
        InputError: naming what is missing or broken.
        ConfigError: see `export`.
    """
    if not (folder / "config.yaml").is_file():
        raise InputError(
            f"{folder}: not the directory of a run (no config.yaml); give the folder above adapter/"
        )
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing and not (folder / "checkpoints").is_dir() and (folder / OWN_ROWS).is_file():
        raise InputError(
            f"{folder}: the trial was not trained here to its end (no {missing[0]}); train it with its "
            "command and results=null"
        )
    if missing:
        raise InputError(f"{folder}: the run is not finished (no {missing[0]}); go on with resume=auto")
    try:
        whole: Any = OmegaConf.create(read_config(folder / "config.yaml"))
        metrics, environment = (read_object(folder / name) for name in NEEDED[1:])
        metrics["after"], environment["versions"], environment["data_sha256"]
        cfg: Any = OmegaConf.masked_copy(whole, ["model", "data", "seed"])
        part = "model" if cfg.model.lora is None else "adapter"
    except BROKEN as error:
        raise InputError(f"{folder}: not a whole run ({plain_line(error).splitlines()[0]})") from None
    stop_on(trust_problems(cfg, []))
    weights = list((folder / part).glob("*.safetensors"))
    if not weights or not list((folder / part).glob("*config.json")):
        kept = (folder / "checkpoints").is_dir()
        remedy = "go on with resume=auto" if kept else f"train it with results=null, and {ANOTHER_FOLDER}"
        raise InputError(f"{folder}: the run is not finished (no weights in {part}/); {remedy}")
    for file in weights:
        _check_whole(file)
    return Finished(folder, whole, metrics, environment, part)


def _check_whole(file: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as tensors:
            names = list(tensors.keys())
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file}: damaged ({plain_line(error)}); bring the file back") from None
    if not names:
        raise InputError(f"{file}: holds no tensor; bring the file back")


def check_base(found: Finished, source: Any) -> None:
    """Whether weights and configuration are of one base model, and its files those that were trained on.

    Raises:
        InputError: they are not.
    """
    from uedpo.evaluation.generate import weights_digest

    said = f"config.yaml has model.path={source.path}"
    if found.part == "adapter":
        named, own = _adapter(found)["base_model_name_or_path"], source.location
        # a folder may have moved since; its hash tells below
        moved = Path(own).is_absolute() and Path(named).name == Path(own).name
        if named != own and not moved:
            raise InputError(f"{found.folder}: its adapter was trained with another base ({named}), {said}")
    known, here = found.environment.get("model_sha256"), weights_digest(Path(source.location))
    if known and here and known != here:
        raise InputError(
            f"{found.folder}: trained with another base: {said}, whose files are not those of the run "
            f"(sha256 {here[:12]}, then {known[:12]}); bring them back"
        )


def _adapter(found: Finished) -> dict[str, Any]:
    """adapter_config.json; empty where the run has no adapter."""
    if found.part != "adapter":
        return {}
    about = read_options(found.folder / "adapter")
    if not (isinstance(about.get("base_model_name_or_path"), str) and isinstance(about.get("r"), int)):
        raise InputError(
            f"{found.folder / 'adapter' / CONFIG}: must have base_model_name_or_path and r; bring it back"
        )
    return about


def _check_mergeable(found: Finished, source: Any) -> None:
    if found.part == "model":
        raise InputError(
            "merge=true: this run trained the whole model, nothing is to be merged; leave it out"
        )
    if source.quantize is not None:
        raise InputError(
            f"merge=true: the adapter was trained on a base in {source.quantize}; on other weights it is "
            "another model, so serve the adapter on that base"
        )


def _copy(found: Finished, source: Any, place: Path) -> None:
    for file in published(found.folder / found.part):
        shutil.copyfile(file, place / file.name, follow_symlinks=False)
    if found.part == "model":
        source.processor().save_pretrained(place)


def published(part: Path) -> list[Path]:
    """The files of an adapter or a model that are published: of a fixed list, whatever else lies beside them.

    Raises:
        InputError: one is a link, which would publish a file of elsewhere, or no regular file.
    """
    names = PUBLISHED | {*weight_files(part)}
    found = [path for name in sorted(names) if (path := part / name).exists() or path.is_symlink()]
    for path in (part, *found):
        if path.is_symlink() or not (path.is_file() or path == part):
            raise InputError(f"{path}: a link, or no regular file; only the files themselves are published")
    return found


def write_merged(place: Path, found: Finished, source: Any) -> Parity:
    """Write model and processor; what was written is read again and compared.

    Raises:
        InputError: data or model cannot be had, or the logits are not those of the adapter.
    """
    import torch

    from uedpo.model.adapter import attach_adapter
    from uedpo.model.hf import HFModel
    from uedpo.runtime.quiet import quiet

    quiet()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    plain = HFModel(source.path, source.revision, source.dtype)
    processor = plain.processor()
    data = _built(found.cfg.data)(processor=processor, seed=found.cfg.seed)
    rows = data.val if len(data.val) else data.train
    batch = data.collate([rows[i] for i in range(min(PAIRS, len(rows)))]).to(device)
    model = attach_adapter(plain.base(), found.folder / "adapter").to(device)
    with model.disable_adapter():
        untrained = response_logits(model, batch)
    trained = response_logits(model, batch)
    model.merge_and_unload(safe_merge=True).save_pretrained(place)
    processor.save_pretrained(place)
    del model
    merged = response_logits(HFModel(str(place), dtype=source.dtype).base().to(device).eval(), batch)
    spread, tolerance = float(trained.std()), TOLERANCE[source.dtype]
    off, moved = (float((other - trained).square().mean().sqrt()) / spread for other in (merged, untrained))
    parity = Parity(len(trained), off, moved, tolerance)
    if not off <= tolerance or off > max(moved / 2, ROUNDING):
        raise InputError(f"merge=true: {_told(parity)}; nothing was written: serve the adapter as it is")
    return parity


def response_logits(model: Any, batch: Any) -> Any:
    """Logits of the response tokens of a batch, fp32 [N, V]."""
    import torch

    from uedpo.model.inputs import image_inputs, unwrap

    base = unwrap(model)
    shown = [entry for row in batch.images for entry in row]
    with torch.no_grad():
        images = image_inputs(base, batch, batch.pixel_values, shown)
        logits = base(**batch.inputs, **images, use_cache=False).logits
    rows = torch.arange(len(logits), device=logits.device)[:, None].expand_as(batch.mask)
    return logits[rows[batch.mask], batch.positions[batch.mask]].float()


def _told(parity: Parity) -> str:
    return (
        f"logits of {parity.tokens} response tokens: merging moves them by {parity.off:.1e} of their "
        f"standard deviation (tolerance {parity.tolerance:g}, and half of what the adapter does), the "
        f"adapter by {parity.moved:.1e}"
    )


def _built(node: DictConfig) -> Any:
    try:
        return instantiate(node)
    except InstantiationException as error:
        if not isinstance(error.__cause__, (ValueError, ImportError, OSError, TypeError)):
            raise
        raise InputError(plain_line(error.__cause__)) from None


if __name__ == "__main__":
    redact.install()
    command(export, bare="run")
