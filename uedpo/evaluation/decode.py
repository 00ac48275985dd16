"""Answers of a model to images and prompts, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from PIL import Image

from uedpo.model.ask import ask, ends_of
from uedpo.model.chat import AnswerFrame


@torch.no_grad()
def generate(
    model: Any,
    processor: Any,
    images: Sequence[Image.Image],
    prompt: str | Sequence[str],
    *,
    max_new_tokens: int,
    batch_size: int,
    temperature: float = 0.0,
    num_beams: int = 1,
) -> Iterator[str]:
    """Yield one answer per image: greedy for temperature 0, else sampled from the full distribution.

    Beam search or beam sampling where `num_beams` is above 1. `prompt` is one for all images or one
    each; rows are padded on the left. The model's training mode is restored afterwards.
    """
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    prompts = [prompt] * len(images) if isinstance(prompt, str) else prompt
    frame = AnswerFrame(processor)
    # a model's own generation config may ask for more; these are all that shape an answer
    sampling: dict[str, Any] = {"do_sample": False, "num_beams": num_beams, "repetition_penalty": 1.0}
    sampling |= {"eos_token_id": ends_of(frame, model)}
    if temperature > 0:
        sampling |= {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    try:
        for start in range(0, len(images), batch_size):
            stop = start + batch_size
            inputs = ask(frame, images[start:stop], prompts[start:stop]).to(device)
            ids = model.generate(**inputs, max_new_tokens=max_new_tokens, **sampling)
            yield from (frame.answer(row) for row in ids[:, inputs["input_ids"].shape[1] :])
    finally:
        model.train(training)
