"""The models and pairs that the kit measures: the sizes of published models, weights at random, no files."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import transformers as hf
from hydra.utils import instantiate
from omegaconf import DictConfig
from PIL import Image

from tests import backbones
from uedpo.config.build import build_module, build_weigher
from uedpo.config.command_line import compose
from uedpo.data.collate import PairCollator
from uedpo.model.hf import HFModel
from uedpo.model.inputs import unwrap
from uedpo.plan.count import Setting
from uedpo.plan.lengths import Sample
from uedpo.types import PairBatch, PreferencePair

SIZES = (1, 4)  # pairs a micro-batch
ANSWER = "a red dog on a hill, "
IMAGE = backbones.IDS["<image>"]


@dataclass(frozen=True)
class Shape:
    """What is measured.

    Attributes:
        family: of `tests.backbones`.
        model: of conf/model; brings learning rate, beta, precision and LoRA of a run.
        image: width and height in pixels.
        tiny: a model of a few thousand weights in its place, for a rehearsal.
        layers: of the language model of LLaVA, where not all.
    """

    name: str
    family: str
    model: str
    image: tuple[int, int]
    tiny: bool = False
    layers: int = 32

    def config(self) -> Any:
        """transformers config."""
        if self.tiny:
            return backbones.config(self.family)
        return _llava_7b(self.layers) if self.family == "llava" else _qwen_3b()

    def processor(self) -> Any:
        """A real processor of the family; its tokenizer has one token a character."""
        processor = copy.copy(backbones.processor(self.family))
        if self.tiny:
            return processor
        if self.family == "llava":
            side = self.image[0]
            processor.image_processor = hf.CLIPImageProcessor(
                size={"shortest_edge": side}, crop_size={"height": side, "width": side}
            )
        else:
            processor.image_processor = hf.Qwen2VLImageProcessor(
                patch_size=14,
                temporal_patch_size=2,
                merge_size=2,
                size={"shortest_edge": 56 * 56, "longest_edge": 1280 * 28 * 28},
            )
        return processor

    def pairs(self) -> list[PreferencePair]:
        """The longest first: prompts of 61 tokens, answers of 80 to 160."""
        random = np.random.default_rng(0)
        long = 8 if self.tiny else 1
        made = []
        for i in range(max(SIZES)):
            pixels = random.integers(0, 255, (self.image[1] // long, self.image[0] // long, 3))
            image = Image.fromarray(pixels.astype(np.uint8))
            chosen, rejected = ((ANSWER * 8)[: (n - 20 * i) // long] for n in (160, 140))
            made.append(PreferencePair(f"row-{i}", image, "what is it? " * 5, chosen, rejected))
        return made


LLAVA = Shape("LLaVA-1.5-7B", "llava", "llava15_7b", (336, 336))
QWEN = Shape("Qwen2.5-VL-3B", "qwen2_5_vl", "qwen25_vl_3b", (640, 480))


def _llava_7b(layers: int) -> Any:
    vision = hf.CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16,
        image_size=336, patch_size=14, projection_dim=768,
    )  # fmt: skip
    text = hf.LlamaConfig(
        vocab_size=32_064, hidden_size=4096, intermediate_size=11_008, num_hidden_layers=layers,
        num_attention_heads=32, max_position_embeddings=4096, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    return hf.LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE)


def _qwen_3b() -> Any:
    tokens = {
        "image_token_id": IMAGE, "video_token_id": backbones.IDS["<video>"],
        "vision_start_token_id": backbones.IDS["<vision>"], "vision_end_token_id": backbones.IDS["</vision>"],
    }  # fmt: skip
    text = {
        "vocab_size": 151_936, "hidden_size": 2048, "intermediate_size": 11_008, "num_hidden_layers": 36,
        "num_attention_heads": 16, "num_key_value_heads": 2, "max_position_embeddings": 128_000,
        "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    }  # fmt: skip
    vision = {
        "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "patch_size": 14,
        "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31], "out_hidden_size": 2048,
    }  # fmt: skip
    return hf.Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **tokens)


class Random(HFModel):
    """`source` with weights that are drawn where they will be used, and a processor made in code."""

    def __init__(self, source: HFModel, shape: Shape, device: str) -> None:
        self.__dict__.update(source.__dict__)
        self.shape, self.device = shape, device

    def processor(self) -> Any:
        return self.shape.processor()

    def config(self) -> Any:
        return self.shape.config()

    def _weights(self, bits: Any) -> Any:
        made = getattr(hf, backbones.CLASSES[self.shape.family])
        torch.manual_seed(0)
        with torch.device(self.device):
            model = made._from_config(
                self.config(), dtype=getattr(torch, self.dtype), attn_implementation=self.attn_implementation
            )
        return model.requires_grad_(False).eval()


def configuration(shape: Shape, device: str, *overrides: str) -> DictConfig:
    """That of a run of UE-DPO on such a model."""
    trainer = "gpu" if device == "cuda" else "cpu"
    rank = ["model.lora.r=4", "model.lora.alpha=8"] if shape.tiny else []
    return compose(
        [f"model={shape.model}", f"trainer={trainer}", "data.max_response_tokens=512", *rank, *overrides]
    )


def setting_of(cfg: DictConfig, shape: Shape) -> Setting:
    """What `uedpo.plan` counts, for the same pairs."""
    pairs = shape.pairs()
    collate = PairCollator(shape.processor(), cfg.data.max_response_tokens)
    return Setting(cfg, shape.config(), collate, Sample(pairs, pairs[0], len(pairs[0].chosen) + 1, []))


def batch_of(setting: Setting, size: int, device: str) -> PairBatch:
    """The first `size` pairs."""
    return setting.collate(setting.sample.longest[:size]).to(device)


def module_of(cfg: DictConfig, source: HFModel, device: str, policy: Any = None) -> Any:
    """The Lightning module of a configuration on its device, with its weigher; of a policy that is there
    already, if one is given."""
    corruption = instantiate(cfg.corruption, seed=cfg.seed)
    module = build_module(cfg, source, corruption)
    if policy is not None:
        module.policy = policy
        module.scorer.attach(policy)
    module.configure_model()
    module.to(device)
    weigher = build_weigher(cfg, corruption)
    if weigher is not None:
        weigher.module = module
        module.set_weigher(weigher.weigh)
    return module


def checkpointing(policy: Any, on: bool) -> None:
    """Recompute activations in the backward pass, or keep them."""
    base = unwrap(policy)
    if on:
        base.gradient_checkpointing_enable({"use_reentrant": False})
    else:
        base.gradient_checkpointing_disable()


def import_models() -> None:
    """Import what the parts need when they make a model, once for all of them."""
    import uedpo.model.lora

    assert uedpo.model.lora
    for shape in (LLAVA, QWEN):
        getattr(hf, backbones.CLASSES[shape.family])
        setting_of(configuration(replace(shape, tiny=True), "cpu"), shape)
