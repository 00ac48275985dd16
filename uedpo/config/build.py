"""From a configuration to the objects of a run, and the libraries' notices off the screen."""

from __future__ import annotations

import inspect
from typing import Any

from hydra.utils import get_object, instantiate
from omegaconf import DictConfig

from uedpo.runtime.ranks import rank
from uedpo.runtime.say import say

CHECKED_ROWS = 2  # against the template's own text, at the start of a run


def build_module(cfg: DictConfig, source: Any, corruption: Any, reference_cache: Any = None) -> Any:
    """The Lightning module of a config."""
    from uedpo.module import PreferenceModule
    from uedpo.scoring import Scorer

    return PreferenceModule(
        source,
        instantiate(cfg.loss),
        instantiate(cfg.optim),
        val_beta=cfg.loss.beta,
        corruption=corruption,
        scorer=Scorer(cfg.scoring, cfg.feature_cache),
        reference_cache=reference_cache,
    )


def build_weigher(cfg: DictConfig, corruption: Any) -> Any:
    """The callback that weighs tokens, given what of seed and corruption it takes; None for none."""
    if "_target_" not in cfg.weights:
        return None
    taken = inspect.signature(get_object(cfg.weights._target_)).parameters
    offered = {"seed": cfg.seed, "corruption": corruption}
    return instantiate(cfg.weights, **{k: v for k, v in offered.items() if k in taken})


def build_callbacks(cfg: DictConfig) -> list[Any]:
    """Those of the config, and those that no run goes without."""
    from uedpo.callbacks.preemption import Preemption, Watchdog

    watchdog = [Watchdog(cfg.timeout)] if cfg.timeout else []
    return [*watchdog, Preemption(), *(instantiate(c) for c in cfg.callbacks.values() if c is not None)]


def build_reference_cache(cfg: DictConfig, source: Any, processor: Any, data: Any) -> Any:
    """The reference's log-probabilities on disk, checked against this run; None where it scores live.

    Raises:
        InputError: see `ReferenceCache.check`.
    """
    if cfg.get("reference_cache") is None:
        return None
    from uedpo.reference.cache import ReferenceCache
    from uedpo.reference.key import setting_of

    setting = setting_of(
        source,
        source.config(),
        processor,
        scoring=cfg.scoring,
        precision=cfg.trainer.precision,
        max_response_tokens=data.collate.max_response_tokens,
    )
    validates, bars = cfg.trainer.val_every_n_batches > 0, bool(cfg.callbacks.get("progress"))
    cache = ReferenceCache(cfg.reference_cache, setting, data, validates=validates, bars=bars)
    message = cache.check()
    if rank() == 0:
        say(message)
    return cache


def check_layout(config: Any, data: Any, corruption: Any) -> None:
    """Whether model, processor, template and corruption agree on images and texts, before weights load.

    Raises:
        InputError: see `PairCollator`, `check_rows`, `check_placeholders` and `check_corruption`.
    """
    from uedpo.corruption.base import check_corruption, check_normalisation
    from uedpo.data.boundary import check_rows
    from uedpo.model.families import family_of
    from uedpo.scoring.placeholders import check_placeholders

    check_corruption(corruption, config.model_type, family_of(config))
    first = data.collate([data.train[0]])
    check_normalisation(corruption, first)
    check_placeholders(first, config)
    check_rows(data.collate, [data.train[i] for i in range(min(CHECKED_ROWS, len(data.train)))])
