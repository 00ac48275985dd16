"""LoRA adapters from a folder: what they are follows from their tensors, never from what PEFT would evaluate.

PEFT imports modules that adapter_config.json names and matches regular expressions from it, so it gets a
configuration that is built here, from literal values and from the names and shapes in the safetensors header.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from uedpo.errors import InputError
from uedpo.model.files import Shapes, pickled_weights, tensor_shapes
from uedpo.runtime.inside import check_inside
from uedpo.runtime.small_json import read_object

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
# what says nothing of what the adapter computes, or what the tensors say themselves
_UNUSED = frozenset({
    "auto_mapping", "base_model_name_or_path", "exclude_modules", "inference_mode", "init_lora_weights",
    "layers_pattern", "layers_to_transform", "peft_type", "peft_version", "r", "rank_pattern", "revision",
    "target_modules", "task_type",
})  # fmt: skip
_READ = frozenset({
    "alpha_pattern", "bias", "lora_alpha", "lora_dropout", "modules_to_save", "use_dora", "use_rslora",
})  # fmt: skip


def attach_adapter(model: Any, folder: str | Path) -> Any:
    """`model` with the LoRA adapter that a run saved in `folder`, frozen.

    Raises:
        InputError: no safetensors there, an option beyond plain LoRA, or an adapter of another base model,
            naming keys.
    """
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    folder = Path(folder)
    options, shapes = read_options(folder), read_shapes(folder)
    base = options.get("base_model_name_or_path")
    try:
        config = lora_config(options, shapes, model)
        _check_targets(options.get("target_modules"), shapes, model)
        policy = get_peft_model(model, config)
        own, saved = get_peft_model_state_dict(policy), load_file(folder / WEIGHTS)
        _check_numbers(saved)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        named = f" ({str(base)[:200]})" if isinstance(error, _OtherBaseError) else ""
        what = f"adapter of another base model{named}: keys" if named else "no usable adapter:"
        reason = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
        raise InputError(f"{folder}: {what} {reason}") from None
    problems = _differences({k: tuple(v.shape) for k, v in own.items()}, shapes)
    if problems:
        raise InputError(f"{folder}: adapter of another base model ({str(base)[:200]}): keys {problems}")
    set_peft_model_state_dict(policy, saved)
    return policy.requires_grad_(False).eval()


def _check_numbers(saved: Mapping[str, Any]) -> None:
    for key, tensor in saved.items():
        if not tensor.is_floating_point() or not tensor.float().isfinite().all():
            raise ValueError(f"{key} must hold finite numbers with a point; this is {tensor.dtype}")


class _OtherBaseError(ValueError):
    """Tensors that do not fit the model."""


def read_options(folder: Path) -> dict[str, Any]:
    """adapter_config.json, in which nothing is left that plain LoRA does not have.

    Raises:
        InputError: naming the option and what is allowed.
    """
    path, file = folder / CONFIG, folder / WEIGHTS
    if not file.is_file():
        pickled = pickled_weights(folder)
        there = folder / "adapter" if (folder / "adapter" / WEIGHTS).is_file() else "adapter/ of a run"
        remedy = f"{pickled[0]} is a pickle, which can run code: convert it" if pickled else f"name {there}"
        raise InputError(f"{folder}: no {WEIGHTS}; {remedy}")
    check_inside(folder, (path, file))
    from peft import LoraConfig

    options, plain = read_object(path), LoraConfig().to_dict()  # type: ignore[no-untyped-call]
    if options.get("peft_type") != "LORA":
        raise InputError(f"{path}: no usable adapter: peft_type must be LORA")
    for key, value in options.items():
        # PEFT writes all of its options, unused ones with their defaults
        if key not in _UNUSED | _READ and value not in (None, False, [], {}, plain.get(key)):
            raise InputError(
                f"{path}: {key[:80]} is more than plain LoRA, which is all that is loaded; allowed: "
                f"{', '.join(sorted(_READ | {'r', 'rank_pattern', 'target_modules'}))}"
            )
    return options


def read_shapes(folder: Path) -> Shapes:
    """Name -> shape of each tensor, from the header of the safetensors file.

    Raises:
        InputError: it is damaged.
    """
    try:
        return tensor_shapes(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{folder}: no usable adapter ({str(error).splitlines()[0][:300]})") from None


def lora_config(options: Mapping[str, Any], shapes: Shapes, model: Any) -> Any:
    """PEFT's configuration of what the tensors are, in literal names of the model's modules.

    Raises:
        ValueError: an option that is not literal, or tensors that do not fit the model.
    """
    from peft import LoraConfig

    modules = dict(model.named_modules())
    ranks = _ranks(shapes, modules)
    alpha = _number(options, "lora_alpha", 8, 0)
    patterns = options.get("alpha_pattern") or {}
    saved = options.get("modules_to_save") or []
    if not isinstance(saved, list) or not isinstance(patterns, dict):
        raise ValueError("modules_to_save must be a list of names, alpha_pattern a number for each name")
    alphas = {_literal(name, "alpha_pattern"): _number(patterns, name, alpha, 0) for name in patterns}
    if max(len(saved), len(patterns)) > len(modules):
        raise ValueError("modules_to_save and alpha_pattern: more names than the model has modules")
    flags: dict[str, Any] = {name: options.get(name) or False for name in ("use_rslora", "use_dora")}
    bias = options.get("bias", "none")
    if not all(isinstance(flag, bool) for flag in flags.values()) or bias not in ("none", "all", "lora_only"):
        raise ValueError("use_rslora and use_dora must be true or false, bias none, all or lora_only")
    rank = max(ranks.values())
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]
        lora_dropout=_number(options, "lora_dropout", 0.0, 0, 1),
        target_modules="|".join(re.escape(name) for name in ranks),
        rank_pattern={re.escape(name): r for name, r in ranks.items() if r != rank},
        alpha_pattern={re.escape(name): a for name, a in alphas.items()},
        modules_to_save=_saved_whole(saved, shapes, modules) or None,
        bias=bias,
        **flags,
    )


def _ranks(shapes: Shapes, modules: Mapping[str, Any]) -> dict[str, int]:
    """Module -> rank of its matrices, all of which are what its layer takes and gives."""
    ranks = {}
    for key in shapes:
        name, _, part = key.removeprefix(_PREFIX).partition(".lora_")
        if part not in ("A.weight", "B.weight") or not key.startswith(_PREFIX):
            continue
        layer = modules.get(name)
        if layer is None:
            raise _OtherBaseError(f"1 not of this model ({key})")
        both = [f"{_PREFIX}{name}.lora_{side}.weight" for side in "AB"]
        missing = [k for k in both if k not in shapes]
        if missing:
            raise _OtherBaseError(f"1 missing ({missing[0]})")
        down, up = (shapes[k] for k in both)
        sizes = (getattr(layer, "in_features", None), getattr(layer, "out_features", None))
        if len(down) != 2 or len(up) != 2 or (down[1], up[0]) != sizes or down[0] != up[1] or not down[0]:
            raise _OtherBaseError(f"1 of another shape ({both[0]})")
        ranks[name] = down[0]
    if not ranks:
        raise _OtherBaseError("none of a LoRA (lora_A and lora_B of linear layers)")
    return ranks


def _saved_whole(names: list[Any], shapes: Shapes, modules: Mapping[str, Any]) -> list[str]:
    """`names` of modules that the adapter holds whole, all of whose tensors are in the file."""
    ends = tuple(_literal(name, "modules_to_save") for name in names)
    for name, module in modules.items() if ends else ():
        if name.endswith(ends):
            missing = [k for key in module.state_dict() if (k := f"{_PREFIX}{name}.{key}") not in shapes]
            if missing:
                raise _OtherBaseError(f"{len(missing)} missing ({', '.join(missing[:2])})")
    return list(ends)


def _check_targets(targets: object, shapes: Shapes, model: Any) -> None:
    """Whether no layer that the configuration names is without tensors; patterns are not evaluated."""
    if not isinstance(targets, list):
        return
    ends = dict.fromkeys(f".{_literal(name, 'target_modules')}" for name in targets)
    found = {k.partition(".lora_")[0].removeprefix(_PREFIX) for k in shapes if ".lora_" in k}
    unmet = [end[1:] for end in ends if not any(f".{name}".endswith(end) for name in found)]
    if unmet:
        raise _OtherBaseError(f"{len(unmet)} missing ({', '.join(unmet[:2])})")


def _literal(name: object, option: str) -> str:
    if not isinstance(name, str) or len(name) > 500 or not _NAME.fullmatch(name):
        raise ValueError(f"{option}: {str(name)[:80]!r} must be a module's name, no pattern")
    return name


def _number(options: Mapping[str, Any], name: str, default: float, low: float, high: float = 1e9) -> float:
    value = options.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name[:80]} must be a number")
    if not low <= value <= high:
        raise ValueError(f"{name[:80]}={str(value)[:20]}: must be from {low} to {high:g}")
    return value


def _differences(own: Shapes, saved: Shapes) -> str:
    differ = {
        "missing": sorted(own.keys() - saved.keys()),
        "not of this model": sorted(saved.keys() - own.keys()),
        "of another shape": sorted(k for k in own.keys() & saved.keys() if own[k] != saved[k]),
    }
    return "; ".join(f"{len(keys)} {what} ({', '.join(keys[:2])})" for what, keys in differ.items() if keys)
