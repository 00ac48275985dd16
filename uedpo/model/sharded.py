"""FSDP2: each rank holds its part of every decoder layer, and gathers a layer while it is used."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from uedpo.model.families import family_of
from uedpo.model.inputs import unwrap


def shard_layers(policy: Any, mesh: Any) -> None:
    """Shard the decoder layers of a policy over the ranks of `mesh`, adapter and base weights alike.

    Embeddings, head, vision tower and projector stay whole on each rank: scoring uses them outside of a
    forward pass of their own, which is what gathers sharded weights.
    """
    from torch.distributed.fsdp import fully_shard

    base = unwrap(policy)
    language = family_of(base.config).language(base)
    for layer in language.layers:
        fully_shard(layer, mesh=mesh)
    inside = {p for layer in language.layers for p in layer.parameters()}
    # the layers' common root, which orders their gathering, has no weights of its own
    fully_shard(language, mesh=mesh, ignored_params=set(language.parameters()) - inside)


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor as all ranks together hold it; all of them have to ask. Others as they are."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def trained_weights(policy: Any) -> dict[str, Tensor]:
    """Name -> whole tensor of everything that is trained; all ranks have to ask."""
    return {name: whole(p).clone() for name, p in policy.named_parameters() if p.requires_grad}
