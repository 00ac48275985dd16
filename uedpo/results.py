"""A file of finished trials: one JSON line each, appended by any number of runs at once.

Each row: key (hash of config), method, config (resolved, without what cannot change a result), commit,
seconds, metrics, and counts: per split the counts of every scene as packed bytes, for paired tests.
The key knows the configuration, not the code: start a new file after a change that moves results.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import os
import subprocess
import tempfile
import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from uedpo.atomic import replace
from uedpo.errors import InputError

BASE = "base model"
OWN_ROWS = "results.jsonl"  # in the directory of a run: its own row
COLUMNS = ("key", "method", "config", "commit", "seconds", "metrics", "counts")
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
    return {str(k): v for k, v in config.items() if k not in _LEFT_OUT} | {"resume": None}


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


def pack(rows: Sequence[Mapping[str, int]]) -> dict[str, Any]:
    """Counts of each scene as {columns, scenes, data}: uint8 [scenes, columns], zlib, base64.

    Raises:
        ValueError: a count outside [0, 255].
    """
    columns = list(rows[0])
    table = np.array([[row[name] for name in columns] for row in rows])
    if table.min() < 0 or table.max() > 255:
        raise ValueError(f"counts reach from {table.min()} to {table.max()}: a packed one is in [0, 255]")
    data = base64.b64encode(zlib.compress(table.astype(np.uint8).tobytes(), 9)).decode()
    return {"columns": columns, "scenes": len(rows), "data": data}


def unpack(packed: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Inverse of `pack`: column -> int64 [scenes].

    Raises:
        ValueError: data that does not hold scenes x columns bytes.
    """
    flat = np.frombuffer(zlib.decompress(base64.b64decode(packed["data"])), dtype=np.uint8)
    table = flat.reshape(packed["scenes"], len(packed["columns"])).astype(np.int64)
    return dict(zip(packed["columns"], table.T, strict=True))


def make_row(
    config: Mapping[str, Any],
    metrics: Mapping[str, Any],
    counts: Mapping[str, Sequence[Mapping[str, int]]],
    seconds: float,
) -> dict[str, Any]:
    """A row of the file; metrics and counts are those of `Evaluated`."""
    packed = {split: pack(rows) for split, rows in counts.items()}
    about = (key_of(config), method_name(config), config, code_version(), round(seconds, 1))
    return dict(zip(COLUMNS, (*about, metrics, packed), strict=True))


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Add one line in one write, so that lines of parallel runs never mix.

    Raises:
        OSError: the line could not be written whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    line = (json.dumps(row) + "\n").encode()
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        if os.write(file, line) != len(line):
            raise OSError(f"{path}: no room for a whole row; remove its last line")
    finally:
        os.close(file)


def check_appendable(path: Path) -> None:
    """Whether `append_row` will be able to write, asked before a run has trained for its row.

    Raises:
        InputError: it will not.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            path.open("ab").close()
        else:
            tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise InputError(f"results={path}: cannot be written ({error.strerror}); name another file") from None


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Replace a file of results by one with `rows`."""
    replace(path, lambda file: file.write("".join(json.dumps(row) + "\n" for row in rows).encode()))


def read_rows(path: Path) -> dict[str, dict[str, Any]]:
    """Rows by key, in order of the file; of two with one key the first. No file: no rows.

    Raises:
        InputError: naming file and line of a row that is not one.
    """
    rows: dict[str, dict[str, Any]] = {}
    if not path.is_file():
        return rows
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a file of results, which are JSON lines; name another") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            row = _checked(f"{path}:{number}", line)
            rows.setdefault(row["key"], row)
    return rows


def _checked(where: str, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
        missing = [name for name in COLUMNS if name not in row]
        if missing:
            raise ValueError(f"no {', '.join(missing)}")
        if row["key"] != key_of(row["config"]):
            raise ValueError("key is not that of its config")
        for packed in row["counts"].values():
            unpack(packed)
    except (ValueError, TypeError, KeyError, AttributeError, zlib.error) as error:
        problem = str(error).splitlines()[0]
        remedy = "name a file that results= wrote, or remove the line"
        raise InputError(f"{where}: not a row of results ({problem}); {remedy}") from None
    return dict(row)


@functools.cache
def code_version() -> str | None:
    """Commit of this checkout, "-dirty" where package or configs differ from it; None outside one."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "--short=12", "HEAD")
        # not the results files, which every trial of a sweep changes
        changed = _git(root, "status", "--porcelain", "--", "uedpo", "conf")
    except FileNotFoundError:  # no git on this machine
        return None
    return commit + "-dirty" * bool(changed) if commit else None


def _git(root: Path, *command: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *command], capture_output=True, text=True, check=False)
    return done.stdout.strip()
