"""Prefix-shared scoring: images and prompt of a pair run once for all responses that share them.

A batch becomes one flat row [prefix | chosen | rejected | ... | prefix | ...] without padding, and
the frozen vision tower runs outside the language model, once for whoever scores the same images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from uedpo.errors import InputError
from uedpo.model.families import family_of
from uedpo.model.inputs import image_inputs, unwrap
from uedpo.scoring.attention import NAME, PrefixLayout
from uedpo.scoring.feature_cache import FeatureCache
from uedpo.scoring.head import token_scores
from uedpo.scoring.last_layer import read_needed_only
from uedpo.types import PairBatch, TokenScores
from uedpo.types.layout import flat_positions, to_device

# those of `uedpo.model.families` that share prefixes
FAMILIES = (
    "llava", "llava_next", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl", "idefics3", "smolvlm",
)  # fmt: skip


@dataclass
class ImageFeatures:
    """What the vision tower and projector made of the images; the names are those of transformers.

    Attributes:
        pooler_output: one tensor [image tokens, H] per image.
        deepstack_features: the same of earlier tower layers (Qwen3-VL), or None.
    """

    pooler_output: Any
    deepstack_features: Any = None


@dataclass
class Packed:
    """A batch as one flat row of S tokens.

    Attributes:
        input_ids: [1, S].
        position_ids: [1, S], or [3, 1, S] where positions have three axes.
        layout: where prefixes and responses (each without its last token) lie.
        index: [N], the state that predicts each response token, in the order of the batch's mask.
        images: where the features of images go.
    """

    input_ids: Tensor
    position_ids: Tensor
    layout: PrefixLayout
    index: Tensor
    images: Tensor


def check_config(config: Any, attn_implementation: str) -> None:
    """Refuse what this path cannot score, before weights load.

    Args:
        config: transformers config of the model.
        attn_implementation: asked for the model.

    Raises:
        InputError: with the reason and the remedy.
    """
    remedy = "or use scoring=plain"
    if not family_of(config).shares_prefixes:
        raise InputError(
            f"scoring=prefix_shared: model type {config.model_type!r} is not one of "
            f"{', '.join(FAMILIES)}; take one of these {remedy}"
        )
    if attn_implementation != "sdpa":
        raise InputError(
            f"scoring=prefix_shared: it brings its own attention, which "
            f"model.attn_implementation={attn_implementation!r} would bypass; use sdpa {remedy}"
        )
    text = config.get_text_config()
    if getattr(text, "sliding_window", None) and getattr(text, "use_sliding_window", True):
        raise InputError(
            f"scoring=prefix_shared: the model attends within a sliding window of {text.sliding_window}, "
            f"which prefix sharing does not; use scoring=plain"
        )


def attach(model: Any) -> None:
    """Switch the language model to the shared-prefix attention; generating works as before.

    Raises:
        InputError: vision tower or projector are trained.
    """
    base = unwrap(model)
    if base.config.get_text_config()._attn_implementation == NAME:
        return
    check_config(base.config, str(base.config._attn_implementation))
    family = family_of(base.config)
    inside = family.language_path(base).removeprefix("model.") + "."
    for name, parameter in base.model.named_parameters():
        if parameter.requires_grad and not name.startswith(inside):
            raise InputError(
                f"scoring=prefix_shared: {name} is trained, but image features are computed once without "
                "gradient; train the language model only (model.lora.target_modules, "
                "model.train_projector=false), or use scoring=plain"
            )
    base.set_attn_implementation({"text_config": NAME})
    read_needed_only(family.language(base).layers[-1])


@torch.no_grad()
def image_features(
    model: Any, batch: PairBatch, pixel_values: Tensor | None, cache: FeatureCache | None = None
) -> ImageFeatures | None:
    """Features of the images of `batch`, or of `pixel_values` [N, ...], in the order in which the packed
    row holds their tokens; None where no pair has one."""
    base = unwrap(model)
    shown = [entry for rows in batch.layout.groups for entry in batch.images[rows[0]]]
    if not shown or pixel_values is None:
        return None
    if cache is not None:
        features = cache.features(batch, shown, lambda n: _tower(base, batch, pixel_values, n).pooler_output)
        return ImageFeatures(features)
    return _tower(base, batch, pixel_values, shown)


def _tower(base: Any, batch: PairBatch, pixel_values: Tensor, shown: Sequence[int]) -> ImageFeatures:
    inputs = image_inputs(base, batch, pixel_values, shown)
    output = base.model.get_image_features(**inputs, return_dict=True)
    return ImageFeatures(output.pooler_output, getattr(output, "deepstack_features", None))


def pack(model: Any, batch: PairBatch) -> Packed:
    """`batch` as one flat row for `model`, on the device of the batch."""
    base, layout = unwrap(model), batch.layout
    positions = layout.positions
    if hasattr(base.model, "get_rope_index"):
        prefixes = [_prefix_positions(base, batch.host, rows[0]) for rows in layout.groups]
        positions = to_device(flat_positions(layout.lengths, prefixes), positions.device)
    return Packed(
        layout.input_ids[None],
        positions.unsqueeze(-2),
        PrefixLayout(layout.lengths, layout.needed),
        layout.index,
        _image_places(base, batch),
    )


def _prefix_positions(base: Any, host: PairBatch, row: int) -> Tensor:
    """[3, prefix], for models that place image tokens on a grid."""
    prefix = host.prefix_lengths[row]
    if not host.images[row] or "image_grid_thw" not in host.image_inputs:
        return torch.arange(prefix).expand(3, -1)
    grids = host.image_inputs["image_grid_thw"][list(host.images[row])]
    ids, kinds = (host.inputs[name][row, :prefix] for name in ("input_ids", "mm_token_type_ids"))
    positions: Tensor = base.model.get_rope_index(ids[None], kinds[None], image_grid_thw=grids)[0][:, 0]
    return positions


def _image_places(base: Any, batch: PairBatch) -> Tensor:
    """Where the flat row has image placeholders, ascending."""
    places = (batch.host.layout.input_ids == base.config.image_token_id).nonzero().squeeze(1)
    return to_device(places, batch.tokens.device)


def score(model: Any, batch: PairBatch, packed: Packed, features: ImageFeatures | None) -> TokenScores:
    """Score every response token of `batch`, of which `packed` is the layout."""
    base = unwrap(model)
    # transformers would read restarting positions as packed documents and make a mask of its own;
    # a 4-D mask goes through untouched, and the attention ignores it
    untouched = packed.input_ids.new_zeros(1, 1, 1, 1)
    deep = features is not None and features.deepstack_features is not None
    with computed(base.model, features if deep else None) as pixels:
        states = base.model(
            **_embedded(base, packed, features),
            pixel_values=pixels,
            attention_mask=untouched,
            position_ids=packed.position_ids,
            prefix_layout=packed.layout,
            use_cache=False,
        ).last_hidden_state
    return token_scores(base, states[0].index_select(0, packed.index), batch)


def _embedded(base: Any, packed: Packed, features: ImageFeatures | None) -> dict[str, Any]:
    """What the flat row says, as the model takes it.

    The features of images are put in their places here: transformers would count the places first, for which
    the host waits, and `check_placeholders` has counted them. Features of earlier layers only it can place.
    """
    if features is None or features.deepstack_features is not None:
        return {"input_ids": packed.input_ids}
    words = base.get_input_embeddings()(packed.input_ids)
    images = features.pooler_output
    images = torch.cat(list(images)) if isinstance(images, list | tuple) else images
    images = images.reshape(-1, words.shape[-1]).to(words.dtype)
    return {"inputs_embeds": words.index_copy(1, packed.images, images[None])}


@contextmanager
def computed(inner: Any, features: ImageFeatures | None) -> Iterator[Tensor | None]:
    """Inside, `inner` (the model without its head) takes `features` for what its tower makes of any pixels.

    Gives the pixels to call it with. transformers has an argument for this since 5.18 only, and before, some
    models put features among embeddings of another dtype as they are: here they get that of the embeddings.
    """
    if features is None:
        yield None
        return
    dtype = inner.get_input_embeddings().weight.dtype
    parts = (tree_map(lambda x: None if x is None else x.to(dtype), part) for part in vars(features).values())
    ready = ImageFeatures(*parts)
    before = vars(inner).get("get_image_features")
    inner.get_image_features = lambda *args, **options: ready
    try:
        yield torch.ones(1)
    finally:
        del inner.get_image_features
        if before is not None:
            inner.get_image_features = before
