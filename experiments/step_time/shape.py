"""The measured shape, its random model and batch, and the FLOPs of a step counted by hand."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from uedpo.types import PairBatch

IMAGE_ID, PAD_ID = 32_000, 32_001


@dataclass(frozen=True)
class Shape:
    """Sizes of a LLaVA-like model and of what it reads; the default is LLaVA in small."""

    response_tokens: int = 100
    batch_size: int = 1
    prompt_tokens: int = 60
    image_tokens: int = 576
    hidden: int = 512
    layers: int = 8
    intermediate: int = 1376
    heads: int = 8
    vocabulary: int = 32_064
    rank: int = 128
    tower_hidden: int = 256
    tower_layers: int = 8

    @property
    def prefix(self) -> int:
        return self.prompt_tokens + self.image_tokens


def make_model(shape: Shape) -> LlavaForConditionalGeneration:
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=shape.tower_hidden,
        intermediate_size=4 * shape.tower_hidden,
        num_hidden_layers=shape.tower_layers,
        num_attention_heads=4,
        image_size=336,
        patch_size=14,
        projection_dim=shape.tower_hidden,
    )
    text = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        pad_token_id=PAD_ID,
    )
    return LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE_ID)
    )


def make_batch(shape: Shape) -> PairBatch:
    """Random pairs of one length each; TRL gets the same tensors."""
    random = torch.Generator().manual_seed(1)
    size, length = shape.batch_size, shape.response_tokens
    before = torch.randint(3, 31_000, (size, 5), generator=random)
    after = torch.randint(3, 31_000, (size, shape.prompt_tokens - 5), generator=random)
    image = torch.full((size, shape.image_tokens), IMAGE_ID)
    prompt = torch.cat([before, image, after], 1)
    tokens = torch.randint(3, 31_000, (2 * size, length), generator=random)
    ids = torch.cat([torch.cat([prompt, prompt]), tokens], 1)
    return PairBatch(
        ids=[f"pair-{i}" for i in range(size)],
        inputs={"input_ids": ids, "attention_mask": torch.ones_like(ids)},
        pixel_values=torch.randn(size, 3, 336, 336, generator=random),
        has_image=torch.ones(size, dtype=torch.bool),
        tokens=tokens,
        mask=torch.ones_like(tokens, dtype=torch.bool),
        positions=(shape.prefix - 1 + torch.arange(length)).expand(2 * size, -1),
    )


def flops_per_pair(shape: Shape) -> dict[str, float]:
    """Multiply-adds times two of the matrix products of one step, per variant.

    A backward pass through frozen weights costs one forward (gradient of the input only), through
    LoRA two, through attention two and a half. Our last layer skips what nobody reads of the prefix.
    """
    h, r = shape.hidden, shape.rank
    base = 2 * shape.layers * (4 * h * h + 3 * h * shape.intermediate)
    lora = 2 * shape.layers * r * (4 * 2 * h + 3 * (h + shape.intermediate))
    p, n = shape.prefix, shape.response_tokens
    separate, packed = 2 * (p + n), p + 2 * n
    attend = 2 * h * shape.layers
    attend_separate = 2 * attend * (p + n) ** 2
    attend_packed = attend * (p**2 + 2 * (2 * p * n + n**2))
    head = 2 * n * 2 * h * shape.vocabulary
    t = shape.tower_hidden
    patches = shape.image_tokens + 1
    tower = patches * 2 * shape.tower_layers * 12 * t * t + 4 * t * shape.tower_layers * patches**2
    tower += shape.image_tokens * 2 * (t * h + h * h)

    def forward(work: tuple[float, float, float], adapter: bool = True) -> float:
        weights, adapters, attention = work
        return weights + adapter * adapters + attention + head

    def train(work: tuple[float, float, float]) -> float:
        weights, adapters, attention = work
        return forward(work) + weights + 2 * adapters + 2.5 * attention + head

    unread_base = 2 * p * (2 * h * h + 3 * h * shape.intermediate)
    unread_lora = 2 * p * r * (2 * 2 * h + 3 * (h + shape.intermediate))
    ours = packed * base - unread_base, packed * lora - unread_lora, attend_packed - 2 * h * p**2
    theirs = separate * base, separate * lora, attend_separate
    policy, reference, probe = train(ours), forward(ours, adapter=False), forward(ours) + tower
    trl_policy = train(theirs) + 2 * tower
    trl_reference = forward(theirs, adapter=False) + 2 * tower
    return {
        "trl": trl_policy + trl_reference,
        "trl_precomputed": trl_policy,
        "dpo": policy + reference + tower,
        "ue_dpo_plain": trl_policy + trl_reference + forward(theirs) + 2 * tower,
        "ue_dpo_live": policy + reference + probe + tower,
        "ue_dpo_cached": policy + probe + tower,
    }


LLAVA_7B = {
    "prompt_tokens": 64, "hidden": 4096, "layers": 32, "intermediate": 11_008, "heads": 32,
    "tower_hidden": 1024, "tower_layers": 24,
}  # fmt: skip
