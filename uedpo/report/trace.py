"""What the probe sees of a few pairs, token by token, as plain data for the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from uedpo.data.collate import PairCollator
from uedpo.types import PairBatch, PreferencePair
from uedpo.weights.probe import UncertaintyProbe


@torch.no_grad()
def trace_pairs(
    module: Any, processor: Any, pairs: Sequence[PreferencePair], weigher: Any
) -> list[dict[str, Any]]:
    """One dict per pair: images as data URLs, and each response's tokens before and after training.

    Each token has text, logp (nats), u, delta, weight and type ("I": selected with u above the mean
    of the selected, "II": selected otherwise, "": not selected). u, delta and weight are absent
    where `weigher` is not an `UncertaintyProbe`. The noise is that of step 0.
    """
    probe = weigher if isinstance(weigher, UncertaintyProbe) else None
    batch = PairCollator(processor, 10_000)(pairs).to(module.device)
    training = module.policy.training
    module.policy.eval()
    corrupted = probe.corrupt(batch, 0) if probe is not None else None
    after = _tokens(module.score, batch, corrupted, probe, processor)
    before = _tokens(module.score_reference, batch, corrupted, probe, processor)
    module.policy.train(training)
    traces = []
    for i, pair in enumerate(pairs):
        trace: dict[str, Any] = {"id": pair.id, "prompt": pair.prompt}
        if batch.images[i] and batch.pixel_values is not None:
            first = batch.images[i][0]
            trace["clear_image"] = _picture(batch.pixel_values[first], processor)
            if corrupted is not None:
                trace["corrupted_image"] = _picture(corrupted[first], processor)
        for side, row in (("chosen", i), ("rejected", i + len(pairs))):
            trace[side] = {"before": before[row], "after": after[row]}
        traces.append(trace)
    return traces


def _tokens(
    scorer: Any, batch: PairBatch, corrupted: Any, probe: UncertaintyProbe | None, processor: Any
) -> list[list[dict[str, Any]]]:
    clear = scorer(batch)
    signals = None
    if probe is not None and corrupted is not None:
        signals = probe.signals(batch, clear, scorer(batch, corrupted))
    rows = []
    for row in range(len(batch.tokens)):
        keep = batch.mask[row]
        ids = batch.tokens[row][keep].tolist()
        tokens = [
            {"text": processor.tokenizer.decode([token]), "logp": round(logp, 4)}
            for token, logp in zip(ids, clear.logps[row][keep].tolist(), strict=True)
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


def _picture(pixels: torch.Tensor, processor: Any) -> str:
    """Normalised pixels [3, H, W] back to a PNG data URL; other layouts have no picture."""
    if pixels.dim() != 3:
        return ""
    images = processor.image_processor
    mean, std = (torch.tensor(x)[:, None, None] for x in (images.image_mean, images.image_std))
    array = ((pixels.cpu().float() * std + mean).clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
