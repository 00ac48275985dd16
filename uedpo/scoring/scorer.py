"""The one object that scores for policy, probe and reference."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from uedpo.errors import InputError
from uedpo.model.families import family_of
from uedpo.model.inputs import unwrap
from uedpo.scoring import plain, prefix_shared
from uedpo.scoring.feature_cache import FeatureCache
from uedpo.scoring.placeholders import Measured, check_placeholders
from uedpo.types import PairBatch, TokenScores

Mode = Literal["prefix_shared", "plain"]


class Scorer:
    """Scores response tokens the same way for policy, probe and reference.

    With "prefix_shared", everyone who scores the same batch object shares its layout, and everyone
    who scores the same pixels shares their features: the frozen vision tower runs once per image.

    Args:
        mode: "prefix_shared", or "plain" for any model that transformers loads.
        feature_cache: folder for the features of clear images, or None; prefix-shared scoring only.
    """

    def __init__(self, mode: Mode = "prefix_shared", feature_cache: str | None = None) -> None:
        if mode not in ("prefix_shared", "plain"):
            raise ValueError(f"scoring={mode!r}: must be prefix_shared or plain")
        self.mode = mode
        if feature_cache is not None and mode == "plain":
            raise ValueError(
                "feature_cache: scoring=plain runs the tower inside the model; take prefix_shared"
            )
        self.cache = None if feature_cache is None else FeatureCache(feature_cache)
        self._batch: PairBatch | None = None
        self._packed: prefix_shared.Packed | None = None
        self._features: list[tuple[Tensor | None, int, Any]] = []
        self._measured: Measured = {}

    def check(self, config: Any, attn_implementation: str) -> None:
        """Raise InputError, with reason and remedy, if models of this config cannot be scored so."""
        if self.mode == "prefix_shared":
            prefix_shared.check_config(config, attn_implementation)
        uncached = family_of(config).uncached
        if self.cache is not None and uncached:
            raise InputError(f"feature_cache: {config.model_type} {uncached}; set feature_cache=null")

    def attach(self, model: Any) -> None:
        """Make a freshly loaded policy or reference ready; raises InputError like `check`."""
        base = unwrap(model)
        family_of(base.config).check_model(base)
        if self.mode == "prefix_shared":
            prefix_shared.attach(model)
        if self.cache is not None:
            self.cache.bind(base)

    def score(self, model: Any, batch: PairBatch, pixel_values: Tensor | None = None) -> TokenScores:
        """Scores of every response token of `batch`.

        Args:
            model: one that was attached; image features of the first model to score a batch serve
                the others, whose vision tower is the same.
            batch: B pairs; rows of its texts are response-major: B chosen, B rejected, further ones.
            pixel_values: [N, ...] in the place of the batch's own (the corrupted images).

        Raises:
            InputError: see `check_placeholders`.
        """
        if batch is not self._batch:
            base = unwrap(model)
            check_placeholders(batch, base.config, base, self._measured)
            self._batch, self._packed, self._features = batch, None, []
        if self.mode == "plain":
            return plain.score(model, batch, pixel_values)
        if self._packed is None:
            self._packed = prefix_shared.pack(model, batch)
        pixels = batch.pixel_values if pixel_values is None else pixel_values
        return prefix_shared.score(model, batch, self._packed, self._features_of(model, batch, pixels))

    def _features_of(self, model: Any, batch: PairBatch, pixels: Tensor | None) -> Any:
        version = 0 if pixels is None else pixels._version  # an in-place change makes other images
        for known, known_version, features in self._features:
            if known is pixels and known_version == version:
                return features
        # corrupted images are new in every step
        cache = self.cache if pixels is batch.pixel_values else None
        features = prefix_shared.image_features(model, batch, pixels, cache)
        self._features.append((pixels, version, features))
        return features
