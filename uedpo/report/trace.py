"""What the probe sees of a few pairs, token by token, as plain data for the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from PIL import Image

from uedpo.data.collate import PairCollator
from uedpo.report.pictures import picture_url
from uedpo.types import PairBatch, PreferencePair, TokenScores
from uedpo.weights.probe import Signals, UncertaintyProbe

# (batch, pixels or None for the batch's own) -> scores
Score = Callable[..., TokenScores]
Truth = Callable[[PreferencePair, str], Sequence[Any]]


@torch.no_grad()
def trace_pairs(
    scores: Mapping[str, Score],
    processor: Any,
    pairs: Sequence[PreferencePair],
    weigher: Any,
    device: Any = "cpu",
    truth: Truth | None = None,
) -> list[dict[str, Any]]:
    """One dict per pair: images as data URLs, and each response's tokens by "before" and "after".

    Each token has text, logp (nats), u, delta, weight and type ("I": selected with u above the mean
    of the selected, "II": selected otherwise, "": not selected). u, delta and weight are absent
    where `weigher` is not an `UncertaintyProbe`. The noise is that of step 0. All pairs are one batch.

    Args:
        scores: when -> what scores a batch; policies in eval mode.
        truth: (pair, response) -> a `TokenTruth` per token, which adds kind, right, size and word.
    """
    probe = weigher if isinstance(weigher, UncertaintyProbe) else None
    batch = PairCollator(processor, 10_000)(pairs).to(device)
    corrupted = probe.corrupt(batch, 0) if probe is not None else None
    rows = {when: _tokens(score, batch, corrupted, probe, processor) for when, score in scores.items()}
    traces = []
    for i, pair in enumerate(pairs):
        trace: dict[str, Any] = {"id": pair.id, "prompt": pair.prompt}
        trace |= _pictures(pair, batch, corrupted, i, processor)
        for side, row in (("chosen", i), ("rejected", i + len(pairs))):
            trace[side] = {when: tokens[row] for when, tokens in rows.items()}
            if truth is not None:
                true = truth(pair, getattr(pair, side))
                for tokens in trace[side].values():
                    for token, about in zip(tokens, true, strict=True):
                        token |= asdict(about)
        traces.append(trace)
    return traces


def _tokens(
    score: Score, batch: PairBatch, corrupted: Any, probe: UncertaintyProbe | None, processor: Any
) -> list[list[dict[str, Any]]]:
    clear = score(batch)
    logps, host, signals = clear.logps.cpu(), batch.host, None
    if probe is not None and corrupted is not None:
        found = probe.signals(batch, clear, score(batch, corrupted))
        signals = Signals(*(values.cpu() for values in vars(found).values()))
    rows = []
    for row in range(len(host.tokens)):
        keep = host.mask[row]
        ids = host.tokens[row][keep].tolist()
        tokens = [
            {"text": processor.tokenizer.decode([token]), "logp": round(logp, 4)}
            for token, logp in zip(ids, logps[row][keep].tolist(), strict=True)
        ]
        if signals is not None:
            u, delta, weight, chosen = (
                x[row][keep]
                for x in (signals.uncertainty, signals.sensitivity, signals.weights, signals.selected)
            )
            mean = u[chosen].mean() if chosen.any() else 0.0
            for t, token in enumerate(tokens):
                token |= {"u": round(float(u[t]), 4), "delta": round(float(delta[t]), 4)}
                token["weight"] = round(float(weight[t]), 4)
                token["type"] = ("I" if u[t] > mean else "II") if chosen[t] else ""
        rows.append(tokens)
    return rows


def _pictures(
    pair: PreferencePair, batch: PairBatch, corrupted: Any, i: int, processor: Any
) -> dict[str, str]:
    """What the model sees of the first image, clear and corrupted; patches cannot be shown, so the image."""
    if not batch.images[i] or batch.pixel_values is None:
        return {}
    first = batch.images[i][0]
    clear = _from_pixels(batch.pixel_values[first], processor)
    if clear is None:
        return {"clear_image": picture_url(pair.images[0])}
    found = {"clear_image": picture_url(clear)}
    noisy = None if corrupted is None else _from_pixels(corrupted[first], processor)
    return found if noisy is None else found | {"corrupted_image": picture_url(noisy)}


def _from_pixels(pixels: torch.Tensor, processor: Any) -> Image.Image | None:
    """Normalised pixels [3, H, W], or the first of [crops, 3, H, W], back to a picture."""
    pixels = pixels[0] if pixels.dim() == 4 else pixels
    if pixels.dim() != 3:
        return None
    images = processor.image_processor
    mean, std = (torch.tensor(x)[:, None, None] for x in (images.image_mean, images.image_std))
    array = ((pixels.cpu().float() * std + mean).clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
    return Image.fromarray(array)
