"""What a configuration may name and hold: checked as written, before anything it names is imported.

Configurations are code in the Hydra convention (see SECURITY.md). This keeps an accident, or a file that
was not read closely, from running what no part of this project is: targets come from an allow-list that
is checked on the object they resolve to, and secrets are refused rather than saved.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from uedpo.config import signatures
from uedpo.runtime.redact import known_secrets, looks_secret

# what of this package builds a part of a run: not its entry points, which write files
OWN = (
    "uedpo.callbacks", "uedpo.corruption", "uedpo.data", "uedpo.logger", "uedpo.loss",
    "uedpo.microworld.data", "uedpo.microworld.evaluation", "uedpo.model", "uedpo.optim",
    "uedpo.sweep.summary", "uedpo.trainer", "uedpo.weights",
)  # fmt: skip
# of these classes only: their functions load, fetch and run things
CLASSES = (
    "torch.optim", "pytorch_lightning", "transformers", "diffusers", "peft",
    "hydra._internal.core_plugins", "hydra.experimental.callbacks", "hydra_plugins.hydra_joblib_launcher",
    "hydra_plugins.hydra_submitit_launcher", "hydra_plugins.hydra_optuna_sweeper", "optuna.samplers",
)  # fmt: skip
FUNCTIONS = ("transformers.optimization", "diffusers.optimization")
SAID = "uedpo, and classes of torch.optim, pytorch_lightning, transformers, diffusers, peft, hydra"
# keys that switch off a protection, and the one value each may have
PINNED = {
    "trust_remote_code": False, "weights_only": True, "use_safetensors": True, "custom_pipeline": None,
}  # fmt: skip
RESOLVERS = ("now", "hydra")
LOGGING = ("logging.StreamHandler", "logging.FileHandler", "logging.NullHandler", "logging.Formatter",
           "logging.handlers.RotatingFileHandler")  # fmt: skip
STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
_RESOLVER = re.compile(r"\$\{\s*([^{}:]*?)\s*:")
_NESTED = re.compile(r"\$\{[^{}]*\$\{")


def trust_problems(cfg: DictConfig, overrides: Sequence[str] | None = None) -> list[str]:
    """One line for each thing a configuration, with or without `hydra`, must not name or hold.

    Args:
        overrides: of the command line, the only place that may set `allow_packages`; None trusts `cfg`.
    """
    raw = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(raw, dict)
    packages = raw.get("allow_packages") or []
    problems = list(_packages(packages, overrides))
    names = [] if problems else list(packages)
    secrets = known_secrets()
    for path, value in _nodes(raw, ""):
        if not path.startswith("hydra.overrides."):  # Hydra's copy of the command line
            problems += _problem(path, value, names, secrets)
    if isinstance(raw.get("hydra"), Mapping):
        problems += _hydra(raw["hydra"], overrides)
    return list(dict.fromkeys(problems))


def _packages(packages: object, overrides: Sequence[str] | None) -> Iterator[str]:
    if not isinstance(packages, list) or not all(isinstance(p, str) and p.isidentifier() for p in packages):
        yield "allow_packages: must be a list of names of packages, as in allow_packages=[mypackage]"
        return
    for name in packages:
        if name in sys.stdlib_module_names or name in ("torch", "numpy", "joblib", "datasets", "pandas"):
            yield f"allow_packages: {name!r} is no package of yours; name one that you wrote"
    given = overrides is None or any(o.lstrip("+").startswith("allow_packages=") for o in overrides)
    if packages and not given:
        wanted = ",".join(packages)
        yield (
            "allow_packages: only the command line may set it, or a file could allow itself anything; "
            f"if you trust the code of these packages, add allow_packages=[{wanted}]"
        )


def _nodes(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of every leaf, at any depth, lists included."""
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        full = f"{path}.{key}".lstrip(".")
        if isinstance(value, (Mapping, list)) and key != "_target_":
            yield from _nodes(value, full)
        else:
            yield full, value


def _problem(path: str, value: Any, packages: Collection[str], secrets: Collection[str]) -> Iterator[str]:
    key = path.rsplit(".", 1)[-1]
    if looks_secret(key, value, secrets):
        # never with the value
        yield f"{path}: looks like a secret; give it by an environment variable, never in a configuration"
        return
    if key == "_target_":
        reason = target_problem(value, packages)
        if reason:
            yield f"{path}={_short(value)}: {reason}"
    if key in PINNED and value != PINNED[key]:
        yield f"{path}={_short(value)}: must be {PINNED[key]}; code and pickles of others never run here"
    if isinstance(value, str):
        named = [name for name in _RESOLVER.findall(value) if name not in RESOLVERS]
        if named or _NESTED.search(value):
            what = f"${{{named[0]}:...}}" if named else "${...${...}}"
            yield f"{path}: {what} is not resolved here; allowed: ${{key}}, ${{now:...}}, ${{hydra:...}}"


def target_problem(target: object, packages: Collection[str] = ()) -> str | None:
    """Why `target` may not be called from a configuration; None where it may.

    Nothing outside the allowed packages is imported to find out, and of this package nothing whose source
    says where it is defined. A name that does not resolve inside them is none of this function's business.
    """
    if not isinstance(target, str) or "${" in target:
        return "must be a dotted name, written out"
    allowed = (*OWN, *CLASSES, *FUNCTIONS, *packages)
    refused = f"is not allowed; allowed: {SAID}; a package of your own: allow_packages=[NAME]"
    if not _below(target, allowed) or any(part.startswith("__") for part in target.split(".")):
        return refused
    known = signatures.read(target)
    if known is not None:
        return None if _below(known.home, (*OWN, *packages)) else refused
    try:
        found = get_object(target)
    except Exception:
        return None
    if inspect.ismodule(found) or not callable(found):
        return "is nothing to call; name a class or a function"
    # an alias leads elsewhere: where the object was defined is what counts
    home = getattr(found, "__module__", None)
    if not isinstance(home, str):
        return refused
    if _below(home, (*OWN, *FUNCTIONS, *packages)):
        return None
    return None if _below(home, CLASSES) and inspect.isclass(found) else refused


def _below(name: str, packages: Collection[str]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def _hydra(node: Mapping[str, Any], overrides: Sequence[str] | None) -> Iterator[str]:
    """What Hydra itself would act on before the run begins."""
    if (node.get("sweeper") or {}).get("custom_search_space"):
        yield "hydra.sweeper.custom_search_space: would call any function; give the values of the search"
    if (node.get("sweeper") or {}).get("search_space"):
        yield "hydra.sweeper.search_space: is another form of hydra.sweeper.params; write it as that"
    given = overrides is None or any(o.lstrip("+").startswith("hydra.launcher.setup=") for o in overrides)
    if (node.get("launcher") or {}).get("setup") and not given:
        yield "hydra.launcher.setup: commands for a shell; only the command line may set it"
    if (node.get("job") or {}).get("env_set"):
        yield "hydra.job.env_set: a configuration does not change the environment; set variables in the shell"
    if any("pkg://" in str(place) for place in node.get("searchpath") or []):
        yield "hydra.searchpath: pkg:// would import a package; give a folder with file://"
    for name in ("job_logging", "hydra_logging"):
        for path, value in _nodes(node.get(name) or {}, f"hydra.{name}"):
            parts = path.split(".")
            if "()" in parts:
                yield f"{path}: is not called from a configuration; use class"
            elif parts[-1] == "class" and value not in LOGGING:
                yield f"{path}={_short(value)}: must be one of {', '.join(LOGGING)}"
            elif isinstance(value, str) and "ext://" in value and value not in STREAMS:
                yield f"{path}={_short(value)}: must be {' or '.join(STREAMS)}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."
