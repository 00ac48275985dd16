"""The generic default: any model that keeps transformers' conventions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from uedpo.errors import InputError

# side tensors with one entry for each tile or picture of an image, as the pixels have
TILE_SIDES = ("pixel_attention_mask",)


class Family:
    """A model of transformers: `base.model` holds a language model, a vision tower and a projector.

    The families override what they know better or before weights load.

    Attributes:
        languages: where the language model is, below `base.model`; the first that is there.
        projectors: modules below `base.model` that map features into the language model.
        towers: modules below `base.model` that are no part of the language model.
        shares_prefixes: whether scoring=prefix_shared computes what the model does.
        tiles: whether an image becomes several pictures or patches, on which a crop or blur of the whole
            image cannot act.
        zeros_are_padding: whether the model takes a picture of zeros for padding and drops it.
        uncached: why the features of an image cannot be kept for later epochs, or None.
        refused: why models of this family cannot be trained here, or None.
    """

    languages: tuple[str, ...] = ("language_model", "text_model")
    projectors: tuple[str, ...] = ("multi_modal_projector", "connector")
    towers: tuple[str, ...] = (
        "vision_tower", "vision_model", "visual", "vision_embed_tokens", "multi_modal_projector", "connector",
    )  # fmt: skip
    shares_prefixes = False
    tiles = False
    zeros_are_padding = False
    uncached: str | None = None
    refused: str | None = None

    def image_tokens(self, config: Any, shape: Sequence[int], sides: Mapping[str, Tensor]) -> int | None:
        """Placeholders that one image must have in the ids, from its pixels; None where only the model knows.

        Args:
            config: of the whole model.
            shape: of the image's pixels, without padding.
            sides: what else the processor said of this image.
        """
        return None

    def model_inputs(
        self, pixels: Tensor, lengths: Sequence[int] | None, sides: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Pixels and side tensors of b images as the model takes them.

        Args:
            pixels: [b, ...], or [b, tiles or patches, ...] where there are `lengths`.
            lengths: how many tiles or patches each image has; None where each is one picture.
            sides: [b, ...] each.
        """
        if lengths is None or self.stacks(sides):
            return {"pixel_values": pixels, **sides}
        return {
            "pixel_values": _in_one_row(pixels, lengths),
            **{n: _in_one_row(x, lengths) if n in TILE_SIDES else x for n, x in sides.items()},
        }

    def stacks(self, sides: Mapping[str, Tensor]) -> bool:
        """Whether the model takes tiles as [images, tiles, ...], or those of all images in one row."""
        return "image_sizes" in sides or "pixel_attention_mask" in sides

    def language_path(self, base: Any) -> str:
        """Dotted path of the language model below `base`.

        Raises:
            InputError: there is none where transformers' models have it.
        """
        for name in self.languages:
            if hasattr(getattr(base, "model", None), name):
                return f"model.{name}"
        raise InputError(
            f"model type {base.config.model_type!r}: has no model.{' and no model.'.join(self.languages)}; "
            "only models of transformers with a language model of their own can be trained"
        )

    def language(self, base: Any) -> Any:
        """The language model, without its head."""
        return base.get_submodule(self.language_path(base))

    def lora_targets(self, base: Any) -> str:
        """Regular expression of all linear layers of the language model, and of nothing else."""
        path = self.language_path(base)
        layers = (n for n, m in base.get_submodule(path).named_modules() if isinstance(m, nn.Linear))
        names = sorted({name.rsplit(".", 1)[-1] for name in layers})
        return rf"{re.escape(path)}\.(.*\.)?({'|'.join(names)})"

    def projector_paths(self, base: Any) -> list[str]:
        """Dotted paths, below `base`, of what maps image features into the language model.

        Raises:
            InputError: none is known for this model.
        """
        names = {name for name, _ in base.named_modules()}
        found = [f"model.{name}" for name in self.projectors if f"model.{name}" in names]
        if not found:
            raise InputError(
                f"model.train_projector: no projector is known for model type {base.config.model_type!r} "
                f"(looked for {', '.join(self.projectors)}); set model.train_projector=false"
            )
        return found

    @torch.no_grad()
    def check_model(self, base: Any) -> None:
        """Refuse what scoring would silently get wrong; the generic default asks the model itself.

        Raises:
            InputError: its logits are not what its head makes of its last hidden state.
        """
        if type(self) is not Family:
            return
        self.language_path(base)
        ids = torch.arange(4, device=base.device)[None]
        training, _ = base.training, base.eval()
        try:
            states = base.model(input_ids=ids, use_cache=False).last_hidden_state
            logits = base(input_ids=ids, use_cache=False).logits
            same = torch.allclose(
                base.get_output_embeddings()(states).float(), logits.float(), rtol=1e-3, atol=1e-3
            )
        except (AttributeError, TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"model type {base.config.model_type!r}: cannot be scored ({type(error).__name__}: {reason})"
            ) from None
        finally:
            base.train(training)
        if not same:
            raise InputError(
                f"model type {base.config.model_type!r}: its logits are not what its head makes of its last "
                "hidden state (scaled or capped), which scoring relies on; take another model"
            )


def _in_one_row(x: Tensor, lengths: Sequence[int]) -> Tensor:
    return torch.cat([row[:n] for row, n in zip(x, lengths, strict=True)])
