"""Tiny random models of every supported family: ragged batches for them, and a LLaVA as a folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from transformers import (
    CLIPVisionConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    MistralConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

from uedpo.model.families import family_of
from uedpo.model.hf import HFModel
from uedpo.model.lora import add_lora
from uedpo.scoring.placeholders import num_features
from uedpo.scoring.prefix_shared import FAMILIES
from uedpo.types import PairBatch

VOCABULARY, IMAGE = 120, 119
SPECIAL = {
    "image_token_id": IMAGE,
    "video_token_id": 118,
    "vision_start_token_id": 117,
    "vision_end_token_id": 116,
}
TEXT = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0,
}  # fmt: skip
ROPE = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [1, 1, 2]}


def _clip():
    return CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=28,
        patch_size=14, projection_dim=32,
    )  # fmt: skip


def _build(family):
    if family == "llava":
        config = LlavaConfig(vision_config=_clip(), text_config=LlamaConfig(**TEXT), image_token_index=IMAGE)
        return LlavaForConditionalGeneration(config)
    if family == "llava_next":
        text = MistralConfig(**TEXT, sliding_window=None)
        pins = [[28, 56], [56, 28]]
        config = LlavaNextConfig(
            vision_config=_clip(), text_config=text, image_token_index=IMAGE, image_grid_pinpoints=pins
        )
        return LlavaNextForConditionalGeneration(config)
    if family == "internvl":
        vision = {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        }
        vision |= {"image_size": [28, 28], "patch_size": [14, 14]}
        text = Qwen2Config(**TEXT)
        config = InternVLConfig(vision_config=vision, text_config=text, image_token_id=IMAGE)
        return InternVLForConditionalGeneration(config)
    if family in ("idefics3", "smolvlm"):
        vision = {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        }
        vision |= {"image_size": 28, "patch_size": 14}
        options = {"vision_config": vision, "text_config": LlamaConfig(**TEXT), "image_token_id": IMAGE}
        if family == "idefics3":
            return Idefics3ForConditionalGeneration(Idefics3Config(**options, pad_token_id=0))
        return SmolVLMForConditionalGeneration(SmolVLMConfig(**options, pad_token_id=0))
    if family == "qwen2_vl":
        vision = {
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": 32,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": 4,
        }
        config = Qwen2VLConfig(text_config=TEXT | {"rope_parameters": ROPE}, vision_config=vision, **SPECIAL)
        return Qwen2VLForConditionalGeneration(config)
    vision = {
        "depth": 3, "hidden_size": 32, "out_hidden_size": 32, "num_heads": 2, "intermediate_size": 48,
        "patch_size": 4,
    }  # fmt: skip
    if family == "qwen2_5_vl":
        vision |= {"window_size": 16, "fullatt_block_indexes": [1]}
        config = Qwen2_5_VLConfig(
            text_config=TEXT | {"rope_parameters": ROPE}, vision_config=vision, **SPECIAL
        )
        return Qwen2_5_VLForConditionalGeneration(config)
    vision |= {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 16}
    text = TEXT | {"head_dim": 8, "rope_parameters": ROPE | {"mrope_interleaved": True}}
    config = Qwen3VLConfig(text_config=text, vision_config=vision, **SPECIAL)
    return Qwen3VLForConditionalGeneration(config)


def _randomise(model):
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.15)


def tiny_model(family, *, adapter_std=0.3, checkpointing=False, dtype=torch.float32):
    """A PEFT model in train mode; `adapter_std=0` leaves the adapter untouched."""
    assert family in FAMILIES
    torch.manual_seed(0)
    model = _build(family)
    _randomise(model)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model = add_lora(model, 4, 4.0, 0.0, family_of(model.config).lora_targets(model))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=adapter_std)
    return model.to(dtype).train()


def _images(family, num):
    """(pixels [B, ...], side tensors, lengths) of images of different sizes."""
    random = torch.Generator().manual_seed(5)
    if family == "llava":
        return torch.randn(num, 3, 28, 28, generator=random), {}, None
    if family == "llava_next":
        sizes = [[(28, 56), (56, 28), (50, 20)][i % 3] for i in range(num)]
        pixels = torch.randn(num, 3, 3, 28, 28, generator=random)
        return pixels, {"image_sizes": torch.tensor(sizes)}, [3] * num
    if family in ("internvl", "idefics3", "smolvlm"):
        lengths = [(3, 1, 2)[i % 3] for i in range(num)]
        pixels, mask = torch.zeros(num, 3, 3, 28, 28), torch.zeros(num, 3, 28, 28, dtype=torch.long)
        for row, length in enumerate(lengths):
            pixels[row, :length] = torch.randn(length, 3, 28, 28, generator=random)
            mask[row, :length, : 28 - 14 * (row % 2)] = 1
        return pixels, {} if family == "internvl" else {"pixel_attention_mask": mask}, lengths
    grids = torch.tensor([[(1, 4, 8), (1, 4, 4), (1, 8, 4)][i % 3] for i in range(num)])
    lengths = grids.prod(1).tolist()
    pixels = torch.zeros(num, max(lengths), 3 * 2 * 4 * 4)
    for row, length in enumerate(lengths):
        pixels[row, :length] = torch.randn(length, pixels.shape[-1], generator=random)
    return pixels, {"image_grid_thw": grids}, lengths


def tiny_batch(model, family, num_pairs, *, num_responses=2, text_only=()):
    """Pairs with prompts, images and responses of different lengths; `text_only` names rows without one."""
    pixels, sides, lengths = _images(family, num_pairs)
    base = model.get_base_model()
    seen = torch.tensor([i not in text_only for i in range(num_pairs)])
    kind, counts = family_of(base.config), []
    for i in range(num_pairs):
        length = None if lengths is None else lengths[i]
        own = {n: x[i, :length] if n == "pixel_attention_mask" else x[i] for n, x in sides.items()}
        whole = pixels[i] if length is None else pixels[i, :length]
        counts.append(num_features(base, kind, whole, None if length is None else [length], own))
    random = torch.Generator().manual_seed(9)

    def text(length):
        return torch.randint(3, 110, (length,), generator=random).tolist()

    prompts = [
        text(3 + i) + [IMAGE] * (counts[i] if seen[i] else 0) + text(4 - i % 3) for i in range(num_pairs)
    ]
    rows = [(i, text(1 + (5 * r + 3 * i) % 7)) for r in range(num_responses) for i in range(num_pairs)]
    width = max(len(t) for _, t in rows)
    longest = max(len(prompts[i]) + len(t) for i, t in rows)
    tokens, positions = torch.zeros(2, len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    ids, attention = torch.zeros(2, len(rows), longest, dtype=torch.long)
    for row, (i, response) in enumerate(rows):
        whole = prompts[i] + response
        ids[row, : len(whole)] = torch.tensor(whole)
        attention[row, : len(whole)] = 1
        tokens[row, : len(response)] = torch.tensor(response)
        mask[row, : len(response)] = True
        positions[row, : len(response)] = torch.arange(len(prompts[i]) - 1, len(whole) - 1)
    inputs = {"input_ids": ids, "attention_mask": attention}
    if "qwen" in family:
        inputs["mm_token_type_ids"] = (ids == IMAGE).long()
    if lengths is not None:
        lengths = [n if s else 0 for n, s in zip(lengths, seen.tolist(), strict=True)]
    names = [f"pair-{i}" for i in range(num_pairs)]
    return PairBatch(names, inputs, pixels, seen, tokens, mask, positions, sides, lengths)


def tiny_llava(folder: Path) -> Path:
    """A folder with a random LLaVA of about 40,000 weights and the shipped model's processor."""
    shipped = Path(HFModel("uedpo:micro_llava").location)
    config = LlavaConfig.from_pretrained(shipped)
    for part in (config.text_config, config.vision_config):
        part.hidden_size, part.intermediate_size, part.num_hidden_layers = 16, 24, 2
        part.num_attention_heads = 2
    config.text_config.num_key_value_heads, config.text_config.head_dim = 2, 8
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config)
    _randomise(model)
    model.save_pretrained(folder)
    for file in shipped.iterdir():
        if file.name not in ("config.json", "model.safetensors"):
            shutil.copy(file, folder)
    return folder
