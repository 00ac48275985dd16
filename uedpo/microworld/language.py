"""Stage 2 of the base model: tokenizer, processor and caption training (tower frozen)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.utils.data import DataLoader, Dataset
from transformers import (
    CLIPImageProcessor,
    CLIPVisionModel,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from uedpo.microworld.grammar import PROMPTS, caption, pick
from uedpo.microworld.scene import IMAGE_SIZE, make_scene
from uedpo.microworld.vision import GRID, PATCH, PIXEL_MEAN, PIXEL_STD, pixels, vision_config

VOCABULARY = 768
OMIT = 0.15  # probability that a training caption leaves out a small item
# Same turns as LLaVA-1.5; content is a string or a list of typed parts.
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ 'USER: ' if m['role'] == 'user' else ' ASSISTANT: ' }}"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for p in m['content'] %}"
    "{% if p['type'] == 'image' %}<image>\n{% else %}{{ p['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{% if m['role'] == 'assistant' %}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


def make_processor(num_captions: int = 20_000) -> LlavaProcessor:
    """Byte-level BPE trained on captions and prompts; CLIP image processing at 96 pixels."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<image>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (
        f"USER: \n{pick(rng, PROMPTS)} ASSISTANT: "
        + caption(rng, make_scene("train", i), invent=0.35, omit=OMIT)
        for i in range(num_captions)
        for rng in [np.random.default_rng([11, i])]
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )
    images = CLIPImageProcessor(
        size={"shortest_edge": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        image_mean=[PIXEL_MEAN] * 3,
        image_std=[PIXEL_STD] * 3,
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=fast,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def make_model(tower: CLIPVisionModel, processor: LlavaProcessor) -> LlavaForConditionalGeneration:
    tokenizer = processor.tokenizer
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    config = LlavaConfig(
        vision_config=vision_config(),
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=GRID * GRID,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(tower.state_dict())
    model.model.vision_tower.requires_grad_(False)
    return model


class CaptionScenes(Dataset[tuple[torch.Tensor, list[int], int]]):
    """Noisy captions of `train` scenes: (pixels, ids, length of the prompt)."""

    def __init__(self, processor: LlavaProcessor, start: int, num: int, invent: float) -> None:
        self.processor, self.start, self.num, self.invent = processor, start, num, invent

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, i: int) -> tuple[torch.Tensor, list[int], int]:
        scene = make_scene("train", self.start + i)
        rng = np.random.default_rng([13, self.start + i])
        text = caption(rng, scene, invent=self.invent, omit=OMIT)
        user: Any = {
            "role": "user",
            "content": [{"type": "image"}, {"type": "text", "text": pick(rng, PROMPTS)}],
        }
        prompt = self.processor.apply_chat_template([user], add_generation_prompt=True)
        prompt = prompt.replace("<image>", "<image>" * (GRID * GRID))
        tokenizer = self.processor.tokenizer
        prompt_ids = tokenizer(prompt, add_special_tokens=False).input_ids
        answer = tokenizer(" " + text + "</s>", add_special_tokens=False).input_ids
        return pixels(scene), prompt_ids + answer, len(prompt_ids)


def _collate(rows: list[tuple[torch.Tensor, list[int], int]]) -> tuple[torch.Tensor, ...]:
    longest = max(len(ids) for _, ids, _ in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full((len(rows), longest), -100)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for i, (_, row, prompt) in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        labels[i, prompt : len(row)] = torch.tensor(row[prompt:])
        mask[i, : len(row)] = 1
    return torch.stack([image for image, _, _ in rows]), ids, labels, mask


def train_captions(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    steps: int,
    start: int,
    invent: float,
    lr: float,
    batch_size: int = 48,
) -> None:
    """Supervised fine-tuning of projector and language model, in place, on captions with label noise."""
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.02, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.06)
    data = CaptionScenes(processor, start, steps * batch_size, invent)
    loader = DataLoader(data, batch_size, num_workers=1, collate_fn=_collate)
    for step, (image, ids, labels, mask) in enumerate(loader):
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(pixel_values=image, input_ids=ids, labels=labels, attention_mask=mask).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            print(f"captions {step}: loss {loss.item():.4f}", flush=True)
    model.eval()
