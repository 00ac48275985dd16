"""Preference losses: pure functions of log-probabilities, one family a file.

All take (policy_logps, reference_logps, mask, weights) and return a `LossOutput`. What else a loss
needs it asks for by the name of a keyword-only parameter, one of `ON_REQUEST`: all [2B, T] but
similarity [2B] and sample_weights [B] (None where all are 1). `uedpo.module` computes what is asked, and
nothing else.
"""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uedpo.loss.da_dpo import da_dpo_loss
    from uedpo.loss.dpo import dpo_loss
    from uedpo.loss.mdpo import mdpo_loss
    from uedpo.loss.napo import napo_loss
    from uedpo.loss.opa_dpo import opa_dpo_loss
    from uedpo.loss.rlhf_v import rlhf_v_loss
    from uedpo.loss.tpo import tpo_loss
    from uedpo.loss.ue_dpo import ue_dpo_loss
    from uedpo.loss.v_dpo import v_dpo_loss

FROM_ROWS = ("similarity", "sample_weights")
ON_REQUEST = (
    "corrupted_policy_logps",
    "corrupted_reference_logps",
    "policy_sensitivity",
    "reference_sensitivity",
    *FROM_ROWS,
)
# what only a reference that is there can give, because corrupted images are new in every step
LIVE_REFERENCE = ("corrupted_reference_logps", "reference_sensitivity")
SMOOTHED = ("sigmoid", "robust")  # forms of `dpo_loss` that label smoothing changes


def takes_constant_corrupted(loss: Callable[..., Any]) -> bool:
    """Whether a loss detaches what the policy says of corrupted images, so that this pass needs no graph.

    Args:
        loss: a function of this package, or a partial of one with its options.
    """
    function, options = getattr(loss, "func", loss), getattr(loss, "keywords", {})
    place = (getattr(function, "__module__", ""), getattr(function, "__name__", ""))
    constant = place == ("uedpo.loss.tpo", "tpo_loss") and bool(options.get("stop_gradient", False))
    return constant or place == ("uedpo.loss.v_dpo", "v_dpo_loss")


__all__ = [
    "FROM_ROWS",
    "LIVE_REFERENCE",
    "ON_REQUEST",
    "SMOOTHED",
    "da_dpo_loss",
    "dpo_loss",
    "mdpo_loss",
    "napo_loss",
    "opa_dpo_loss",
    "rlhf_v_loss",
    "takes_constant_corrupted",
    "tpo_loss",
    "ue_dpo_loss",
    "v_dpo_loss",
]


def __getattr__(name: str) -> Any:
    """A loss, imported when it is asked for: the rules of a configuration need the names above only."""
    if name in __all__:
        return getattr(import_module(f"{__name__}.{name.removesuffix('_loss')}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
