"""A tiny random model of each family with a real processor of its class, made in code: no files."""

from __future__ import annotations

import functools
import string

import numpy as np
import torch
import transformers as hf
from PIL import Image
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
from transformers import processing_utils, video_processing_utils
from transformers.models.smolvlm import processing_smolvlm

from uedpo.types import PreferencePair

# family -> class; the last ones have no file of their own and take the generic default
CLASSES = {
    "llava": "LlavaForConditionalGeneration",
    "llava_next": "LlavaNextForConditionalGeneration",
    "qwen2_vl": "Qwen2VLForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
    "internvl": "InternVLForConditionalGeneration",
    "idefics3": "Idefics3ForConditionalGeneration",
    "smolvlm": "SmolVLMForConditionalGeneration",
    "gemma3": "Gemma3ForConditionalGeneration",
    "aya_vision": "AyaVisionForConditionalGeneration",
    "llava_onevision": "LlavaOnevisionForConditionalGeneration",
}
GENERIC = ("aya_vision", "llava_onevision")
NAMED = {
    "image_token": "<image>", "video_token": "<video>", "boi_token": "<boi>", "eoi_token": "<eoi>",
    "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<image>",
    "fake_image_token": "<fake_token_around_image>", "global_image_token": "<global-img>",
    "end_of_utterance_token": "<end_of_utterance>",
}  # fmt: skip
OTHERS = [
    "<|im_start|>", "<|im_end|>", "TILE", "TILE_GLOBAL",
    "<vision>", "</vision>", *(f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)),
]  # fmt: skip
SPECIAL = ["<pad>", "<s>", "</s>", *dict.fromkeys(NAMED.values()), *OTHERS]
CHARACTERS = [*string.ascii_letters, *string.digits, *" \n.,:?!'_"]
IDS = {token: i for i, token in enumerate([*SPECIAL, *CHARACTERS])}
TEXT = {
    "vocab_size": len(IDS), "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0, "head_dim": 8, "max_position_embeddings": 512,
}  # fmt: skip
ROPE = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [1, 1, 2]}
VISION = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 14,
}  # fmt: skip
COLON = (
    "{% for m in messages %}{{ m.role.upper() }}: {% for c in m.content %}{% if c.type == 'image' %}IMAGE\n"
    "{% else %}{{ c.text }} {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
MARKED = (
    "START{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}{% if c.type == 'image' %}"
    "IMAGE{% else %}{{ c.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


# without torchvision transformers does not export the class that its processors check a part against
CHECKED = processing_utils.MODALITY_TO_BASE_CLASS_MAPPING["video_processor"]
VideoProcessor = getattr(video_processing_utils, CHECKED)
setattr(processing_utils.transformers_module, CHECKED, VideoProcessor)


class NoVideos(VideoProcessor):
    """In the place of the video processors, which need torchvision."""

    num_frames, fps = 1, 1

    def __init__(self):
        pass

    def to_dict(self):
        return {}


def tokenizer(*, starts=False):
    """One token a character, and every family's special tokens; `starts` puts <s> before a text."""
    inner = Tokenizer(models.WordLevel({"?": IDS["?"]} | IDS, unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    if starts:
        inner.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
        )
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>", padding_side="right",
        extra_special_tokens=NAMED,
    )  # fmt: skip


def template(style, image, start=""):
    return style.replace("IMAGE", image).replace("START", start)


SQUARE = {"size": {"height": 28, "width": 28}}
PINS = [[28, 56], [56, 28]]


def _llava():
    images = hf.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    return hf.LlavaProcessor(
        images, tokenizer(starts=True), patch_size=14, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=template(COLON, "<image>"),
    )  # fmt: skip


def _llava_next():
    images = hf.LlavaNextImageProcessor(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}, image_grid_pinpoints=PINS
    )
    return hf.LlavaNextProcessor(
        images, tokenizer(starts=True), patch_size=14, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=template(COLON, "<image>"),
    )  # fmt: skip


def _qwen(name, size):
    images = hf.Qwen2VLImageProcessor(
        patch_size=4, temporal_patch_size=2, merge_size=2, size={"shortest_edge": 64, "longest_edge": size}
    )
    marks = template(MARKED, "<vision><image></vision>")
    return getattr(hf, name)(images, tokenizer(), NoVideos(), chat_template=marks)


def _internvl():
    images = hf.GotOcr2ImageProcessor(**SQUARE, crop_to_patches=True, min_patches=1, max_patches=3)
    return hf.InternVLProcessor(
        images, tokenizer(), NoVideos(), image_seq_length=1, chat_template=template(MARKED, "<image>\n")
    )


def _idefics3(name):
    options = {
        "size": {"longest_edge": 56},
        "max_image_size": {"longest_edge": 28},
        "do_image_splitting": True,
    }
    marks = template(COLON, "<image>").replace(
        "{% endfor %}{% endfor %}", "{% endfor %}<end_of_utterance>\n{% endfor %}"
    )
    if name == "Idefics3":
        images = hf.Idefics3ImageProcessor(**options)
        return hf.Idefics3Processor(images, tokenizer(), image_seq_len=1, chat_template=marks)
    processing_smolvlm.num2words = processing_smolvlm.num2words or str  # spells numbers of video frames
    images = hf.SmolVLMImageProcessor(**options)
    return hf.SmolVLMProcessor(images, tokenizer(), NoVideos(), image_seq_len=1, chat_template=marks)


def _gemma3():
    marks = template(MARKED, "<boi>", "<s>")
    images = hf.Gemma3ImageProcessor(**SQUARE)
    return hf.Gemma3Processor(images, tokenizer(starts=True), image_seq_length=4, chat_template=marks)


def _aya_vision():
    images = hf.GotOcr2ImageProcessor(**SQUARE, crop_to_patches=True, min_patches=1, max_patches=3)
    return hf.AyaVisionProcessor(
        images, tokenizer(starts=True), patch_size=14, img_size=28, downsample_factor=2,
        image_token="<boi>", img_patch_token="<image>", start_of_img_token="<img>", end_of_img_token="</img>",
        chat_template=template(MARKED, "<boi>", "<s>"),
    )  # fmt: skip


def _llava_onevision():
    images = hf.LlavaOnevisionImageProcessor(**SQUARE, image_grid_pinpoints=PINS)
    return hf.LlavaOnevisionProcessor(
        images, tokenizer(), NoVideos(), num_image_tokens=4, vision_feature_select_strategy="full",
        chat_template=template(MARKED, "<image>"),
    )  # fmt: skip


@functools.cache
def processor(family):
    """The processor of a family."""
    made = {
        "llava": _llava,
        "llava_next": _llava_next,
        "qwen2_vl": lambda: _qwen("Qwen2VLProcessor", 256),
        "qwen2_5_vl": lambda: _qwen("Qwen2_5_VLProcessor", 256),
        "qwen3_vl": lambda: _qwen("Qwen3VLProcessor", 256),
        "internvl": _internvl,
        "idefics3": lambda: _idefics3("Idefics3"),
        "smolvlm": lambda: _idefics3("SmolVLM"),
        "gemma3": _gemma3,
        "aya_vision": _aya_vision,
        "llava_onevision": _llava_onevision,
    }
    return made[family]()


def config(family):
    """The transformers config of a tiny model of a family."""
    image = IDS["<image>"]
    clip = hf.CLIPVisionConfig(**VISION, projection_dim=16)
    siglip = {**VISION, "model_type": "siglip_vision_model", "vision_use_head": False}
    if family == "llava":
        text = hf.LlamaConfig(**TEXT)
        return hf.LlavaConfig(vision_config=clip, text_config=text, image_token_index=image)
    if family == "llava_next":
        text = hf.MistralConfig(**TEXT, sliding_window=None)
        return hf.LlavaNextConfig(
            vision_config=clip, text_config=text, image_token_index=image, image_grid_pinpoints=PINS
        )
    if family.startswith("qwen"):
        return _qwen_config(family, image)
    if family == "internvl":
        return hf.InternVLConfig(
            vision_config=VISION | {"image_size": [28, 28], "patch_size": [14, 14]},
            text_config=hf.Qwen2Config(**TEXT), image_token_id=image, image_seq_length=1,
        )  # fmt: skip
    if family in ("idefics3", "smolvlm"):
        made = hf.Idefics3Config if family == "idefics3" else hf.SmolVLMConfig
        return made(
            vision_config=VISION, text_config=hf.LlamaConfig(**TEXT), image_token_id=image, scale_factor=2,
            pad_token_id=0,
        )  # fmt: skip
    if family == "gemma3":
        text = hf.Gemma3TextConfig(
            **TEXT, sliding_window=6, layer_types=["sliding_attention", "full_attention"],
            query_pre_attn_scalar=8,
        )  # fmt: skip
        return hf.Gemma3Config(
            vision_config=siglip, text_config=text, image_token_index=image, mm_tokens_per_image=4,
            boi_token_index=IDS["<boi>"], eoi_token_index=IDS["<eoi>"],
        )  # fmt: skip
    if family == "aya_vision":
        text = hf.Cohere2Config(**TEXT, sliding_window=8, layer_types=["sliding_attention", "full_attention"])
        return hf.AyaVisionConfig(
            vision_config=siglip, text_config=text, image_token_index=image, downsample_factor=2
        )
    return hf.LlavaOnevisionConfig(
        vision_config=siglip, text_config=hf.Qwen2Config(**TEXT), image_token_index=image,
        video_token_index=IDS["<video>"], image_grid_pinpoints=PINS,
    )  # fmt: skip


def _qwen_config(family, image):
    tokens = {
        "image_token_id": image,
        "video_token_id": IDS["<video>"],
        "vision_start_token_id": IDS["<vision>"],
        "vision_end_token_id": IDS["</vision>"],
    }
    vision = {"depth": 2, "hidden_size": 16, "num_heads": 2, "patch_size": 4}
    text = TEXT | {"rope_parameters": ROPE}
    if family == "qwen2_vl":
        vision |= {"embed_dim": 16, "mlp_ratio": 2}
        return hf.Qwen2VLConfig(text_config=text, vision_config=vision, **tokens)
    vision |= {"out_hidden_size": 16, "intermediate_size": 24}
    if family == "qwen2_5_vl":
        vision |= {"window_size": 16, "fullatt_block_indexes": [1]}
        return hf.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **tokens)
    vision |= {"deepstack_visual_indexes": [0], "num_position_embeddings": 16}
    text["rope_parameters"] = ROPE | {"mrope_interleaved": True}
    return hf.Qwen3VLConfig(text_config=text, vision_config=vision, **tokens)


def model(family, *, dtype=torch.float32):
    """A random model whose tokens depend on one another and on the image; frozen, in eval mode."""
    torch.manual_seed(0)
    made = getattr(hf, CLASSES[family])._from_config(config(family), attn_implementation="sdpa")
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)
    return made.to(dtype).requires_grad_(False).eval()


def pairs(*, text_only=(1,)):
    """Three pairs with prompts, answers and images of different sizes; `text_only` names rows without one."""
    sizes = [(28, 28), (40, 20), (20, 56)]
    random = np.random.default_rng(3)
    made = []
    for i, (height, width) in enumerate(sizes):
        pixels = random.integers(0, 255, (height, width, 3))
        image = None if i in text_only else Image.fromarray(pixels.astype(np.uint8))
        made.append(
            PreferencePair(f"row-{i}", image, f"what is {i}?", "a red dog"[: 3 + 3 * i].strip(), "no cat")
        )
    return made
