"""uedpo: uncertainty-aware exploratory DPO (arXiv 2605.04874) and its experiments."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uedpo.config.command_line import compose as compose
    from uedpo.corruption.diffusion import Diffusion as Diffusion
    from uedpo.corruption.spatial import Blank as Blank
    from uedpo.corruption.spatial import Blur as Blur
    from uedpo.corruption.spatial import Crop as Crop
    from uedpo.corruption.spatial import Mask as Mask
    from uedpo.data.collate import PairCollator as PairCollator
    from uedpo.data.datamodule import PairDataModule as PairDataModule
    from uedpo.experiment import Experiment as Experiment
    from uedpo.loss.dpo import dpo_loss as dpo_loss
    from uedpo.loss.ue_dpo import ue_dpo_loss as ue_dpo_loss
    from uedpo.microworld.data import MicroWorldPairs as MicroWorldPairs
    from uedpo.model.hf import HFModel as HFModel
    from uedpo.model.hf import lora as lora
    from uedpo.module import PreferenceModule as PreferenceModule
    from uedpo.optim import adamw_cosine as adamw_cosine
    from uedpo.scoring.scorer import Scorer as Scorer
    from uedpo.types import PairBatch as PairBatch
    from uedpo.types import PreferencePair as PreferencePair
    from uedpo.types import TokenScores as TokenScores
    from uedpo.weights.probe import UncertaintyProbe as UncertaintyProbe
    from uedpo.weights.uncertainty import epistemic_uncertainty as epistemic_uncertainty
    from uedpo.weights.uncertainty import exploration_weights as exploration_weights
    from uedpo.weights.uncertainty import ue_dpo_weights as ue_dpo_weights
    from uedpo.weights.uncertainty import visual_sensitivity as visual_sensitivity

__version__ = "0.1.0"
# module -> names, imported when first asked for: torch and Lightning take seconds
_MODULES = {
    "uedpo.config.command_line": ("compose",),
    "uedpo.corruption.diffusion": ("Diffusion",),
    "uedpo.corruption.spatial": ("Blank", "Blur", "Crop", "Mask"),
    "uedpo.data.collate": ("PairCollator",),
    "uedpo.data.datamodule": ("PairDataModule",),
    "uedpo.experiment": ("Experiment",),
    "uedpo.loss.dpo": ("dpo_loss",),
    "uedpo.loss.ue_dpo": ("ue_dpo_loss",),
    "uedpo.microworld.data": ("MicroWorldPairs",),
    "uedpo.model.hf": ("HFModel", "lora"),
    "uedpo.module": ("PreferenceModule",),
    "uedpo.optim": ("adamw_cosine",),
    "uedpo.scoring.scorer": ("Scorer",),
    "uedpo.types": ("PairBatch", "PreferencePair", "TokenScores"),
    "uedpo.weights.probe": ("UncertaintyProbe",),
    "uedpo.weights.uncertainty": (
        "epistemic_uncertainty", "exploration_weights", "ue_dpo_weights", "visual_sensitivity",
    ),
}  # fmt: skip
_WHERE = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'uedpo' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(["__version__", *_WHERE])
