"""What determines a trial, and the key that trials with the same setting share."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

BASE = "base model"
# keys of a config that cannot change a result
_LEFT_OUT = (
    "name", "threads", "timeout", "results", "logger", "callbacks", "allow_packages", "metric", "mode",
    "report_pairs", "reference_cache", "feature_cache",
)  # fmt: skip
# options that came after rows were stored -> the value that leaves those rows valid
_NEUTRAL = {
    "weights.every_n_steps": 1,
    "weights.reuse": False,
    "model.quantize": None,
    "model.reference_quantize": None,
    "model.train_projector": False,
    "model.lora.target_modules": None,
    "corruption.space": "normalised",
}


def trial_config(cfg: DictConfig) -> dict[str, Any]:
    """What determines a trial, resolved."""
    config = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(config, dict)
    for path, neutral in _NEUTRAL.items():
        *groups, key = path.split(".")
        node = functools.reduce(lambda n, group: n.get(group) or {}, groups, config)
        if key in node and node[key] == neutral:
            del node[key]
    # a resumed run is the same trial, bit for bit
    kept = {str(k): v for k, v in config.items() if k not in _LEFT_OUT} | {"resume": None}
    return dict(without_modules(kept))


def without_modules(node: Any) -> Any:
    """`node` with each `_target_` of this package as uedpo.NAME: moving a class does not change a trial."""
    if isinstance(node, list):
        return [without_modules(item) for item in node]
    if not isinstance(node, Mapping):
        return node
    return {k: _short_target(v) if k == "_target_" else without_modules(v) for k, v in node.items()}


def _short_target(target: Any) -> Any:
    package, _, path = str(target).partition(".")
    return f"{package}.{path.rsplit('.', 1)[-1]}" if package == "uedpo" else target


def base_config(cfg: DictConfig) -> dict[str, Any]:
    """What determines the evaluation of the untrained model."""
    config = trial_config(cfg)
    model = {k: v for k, v in config["model"].items() if k != "lora"}
    return {"method": BASE, "model": model, "evaluation": config["evaluation"]}


def method_name(config: Mapping[str, Any]) -> str:
    """What tables call a setting: its `method` key, else the loss and the control of the weights."""
    if config.get("method"):
        return str(config["method"])
    loss = str(config["loss"]["_target_"]).rsplit(".", 1)[-1].removesuffix("_loss")
    control = config["weights"].get("control", "none")
    return loss.upper().replace("_", "-") + (f" (control: {control})" if control != "none" else "")


def value_of(config: Mapping[str, Any], key: str) -> Any:
    """Value of a dotted key, "" where `config` has none; "method" is what tables call the setting."""
    if key == "method":
        return method_name(config)
    node: Any = config
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return ""
        node = node[part]
    return node


def flat(node: Any, path: str = "") -> dict[str, Any]:
    """Dotted key -> value of every leaf."""
    if not isinstance(node, Mapping):
        return {path: node}
    return {k: v for key, value in node.items() for k, v in flat(value, f"{path}.{key}".lstrip(".")).items()}


def differing(configs: Sequence[Mapping[str, Any]], but: Collection[str]) -> list[str]:
    """Dotted keys, sorted, that `configs` do not agree on, other than `but` and what is below it."""
    flats = [flat(config) for config in configs]
    keys = {key for leaves in flats for key in leaves if any(key not in f for f in flats)}
    keys |= {key for key in flats[0] for f in flats if key in f and f[key] != flats[0][key]}
    return sorted(k for k in keys if not any(k == b or k.startswith(b + ".") for b in but))


def moves_results(key: str) -> bool:
    """Whether a dotted key can change what a run measures."""
    return key.split(".")[0] not in (*_LEFT_OUT, "resume", "hydra") and not key.startswith("hydra/")


def key_of(config: Mapping[str, Any]) -> str:
    """16 hexadecimal digits that tell settings apart."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]
