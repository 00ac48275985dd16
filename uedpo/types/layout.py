"""Where the responses of a batch lie: lengths and indices, made on the host where the batch is made.

Reading one number back from a GPU makes the host wait for everything that runs there. So whatever a step has
to know of its batch is known before the batch leaves the host.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(eq=False)
class Layout:
    """Of a batch of rows [prompt | response], padded, and of the same as one flat row without padding.

    The flat row is [prefix | response | response | ... | prefix | ...] with S tokens: a prefix serves all
    responses that share it. No response brings its last token, which predicts nothing.

    Attributes:
        groups: rows that share a prefix.
        lengths: of each group, tokens of (prefix, response, response, ...) in the flat row.
        sizes: of the parts of `numbers`.
        numbers: all the indices in one tensor, which costs one copy to a device:
            at [N], where the response tokens are in a flattened [rows, T], row after row;
            predictors [N], the state that predicts each of them in flattened [rows, tokens];
            index [N], the same in the flat row;
            needed, the entries of `index` once and ascending;
            input_ids [S] and positions [S] of the flat row.
    """

    groups: list[list[int]]
    lengths: list[tuple[int, ...]]
    sizes: list[int]
    numbers: Tensor

    def __post_init__(self) -> None:
        parts = self.numbers.split(self.sizes)
        self.at, self.predictors, self.index, self.needed, self.input_ids, self.positions = parts

    def each(self, change: Callable[[Tensor], Tensor]) -> Layout:
        """With changed tensors."""
        return Layout(self.groups, self.lengths, self.sizes, change(self.numbers))


def lay_out(
    input_ids: Tensor,
    tokens: Tensor,
    mask: Tensor,
    positions: Tensor,
    prefixes: Sequence[int],
    responses: Sequence[int],
    groups: list[list[int]],
) -> Layout:
    """The `Layout` of rows on the host; the tensors are those of `PairBatch`.

    Args:
        prefixes, responses: tokens before each response, and in it.
        groups: rows that share a prefix.
    """
    fed = [max(0, length - 1) for length in responses]
    lengths = [(prefixes[rows[0]], *(fed[row] for row in rows)) for rows in groups]
    ids: list[Tensor] = []
    index: list[list[int]] = [[] for _ in responses]
    start = 0
    for rows, (prefix, *_) in zip(groups, lengths, strict=True):
        ids += [input_ids[rows[0], :prefix], *(tokens[row, : fed[row]] for row in rows)]
        begin = start + prefix
        for row in rows:
            # the first token of each response follows the prefix
            index[row] = [start + prefix - 1, *range(begin, begin + fed[row])][: responses[row]]
            begin += fed[row]
        start = begin
    flat = [i for row in index for i in row]
    at = mask.flatten().nonzero().squeeze(1)
    rows_of = at.div(mask.shape[1], rounding_mode="floor")
    parts = [
        at,
        rows_of * input_ids.shape[1] + positions.flatten()[at],
        torch.tensor(flat, dtype=torch.long),
        torch.tensor(sorted(set(flat)), dtype=torch.long),
        torch.cat(ids),
        flat_positions(lengths, [torch.arange(prefix) for prefix, *_ in lengths]),
    ]
    return Layout(groups, lengths, [len(part) for part in parts], torch.cat(parts))


def flat_positions(lengths: Sequence[tuple[int, ...]], prefixes: Sequence[Tensor]) -> Tensor:
    """Positions [..., S] of a flat row: those of each prefix [..., prefix], which its responses continue."""
    found = []
    for (_, *fed), at in zip(lengths, prefixes, strict=True):
        first = int(at.max()) + 1
        found += [at, *((first + torch.arange(n)).expand(*at.shape[:-1], n) for n in fed)]
    return torch.cat(found, -1)


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """`tensor` on `device`; a GPU gets it from pinned memory, so that the host does not wait for the copy."""
    if torch.device(device).type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
