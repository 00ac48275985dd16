"""Answers to one prompt for many images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from PIL import Image

from uedpo.model.chat import chat_prompt


@torch.no_grad()
def generate(
    model: Any,
    processor: Any,
    images: Sequence[Image.Image],
    prompt: str,
    *,
    max_new_tokens: int,
    batch_size: int,
    temperature: float = 0.0,
    num_beams: int = 1,
) -> Iterator[str]:
    """Yield one answer per image: greedy for temperature 0, else sampled from the full distribution.

    Beam search or beam sampling where `num_beams` is above 1. All images of a call share the prompt;
    the model's training mode is restored afterwards.
    """
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    text = chat_prompt(processor, prompt)
    sampling: dict[str, Any] = {"do_sample": False, "num_beams": num_beams}
    if temperature > 0:
        sampling |= {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    try:
        for start in range(0, len(images), batch_size):
            chunk = list(images[start : start + batch_size])
            inputs = processor(images=chunk, text=[text] * len(chunk), return_tensors="pt", padding=True)
            ids = model.generate(**inputs.to(device), max_new_tokens=max_new_tokens, **sampling)
            answers = ids[:, inputs["input_ids"].shape[1] :]
            yield from (a.strip() for a in processor.batch_decode(answers, skip_special_tokens=True))
    finally:
        model.train(training)
