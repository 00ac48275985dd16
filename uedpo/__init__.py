"""uedpo: uncertainty-aware exploratory DPO (arXiv 2605.04874) and its experiments."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uedpo.config.command_line import compose as compose
    from uedpo.experiment import Experiment as Experiment

__version__ = "0.1.0"
# imported when first asked for: each takes seconds
_WHERE = {"compose": "uedpo.config.command_line", "Experiment": "uedpo.experiment"}
__all__ = ["Experiment", "__version__", "compose"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'uedpo' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return __all__
