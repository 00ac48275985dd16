"""What is missing from the files of a processor, asked before its first row."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from uedpo.errors import InputError
from uedpo.model.ask import ask
from uedpo.model.chat import AnswerFrame, user_turn
from uedpo.model.files import LARGEST, MOST
from uedpo.runtime.child import SAID, ends
from uedpo.runtime.small_json import read_object

# settings without which a processor that takes them cannot count the tokens of an image
COUNTING = ("patch_size", "vision_feature_select_strategy", "image_seq_length")
SIDE = 64  # pixels of the picture that a processor is tried on
QUESTION = "What is it?"


def missing_settings(processor: Any) -> list[str]:
    """A line for each setting that old or incomplete files leave out; names file and key."""
    taken = inspect.signature(type(processor).__init__).parameters
    lines = [
        f"processor_config.json has no {name}"
        for name in COUNTING
        if name in taken and getattr(processor, name, None) is None
    ]
    images = getattr(processor, "image_processor", None)
    for wanted, name in (("do_resize", "size"), ("do_center_crop", "crop_size")):
        if getattr(images, wanted, None) and not getattr(images, name, None):
            lines.append(f"preprocessor_config.json has no {name}, and {wanted} is true")
    return lines


def untried(processor: Any) -> str | None:
    """Why the processor cannot make one turn with a picture, in one line; None where it can."""
    try:
        frame = AnswerFrame(processor)
        frame.render(user_turn(QUESTION), ())
    except InputError as error:
        return f"chat_template.jinja (or chat_template of tokenizer_config.json): {error}"
    except Exception as error:  # of any library, for a property of a file
        return f"its tokenizer (tokenizer.json, tokenizer_config.json) {_raises(error)} on a turn"
    files = "its processor (processor_config.json, preprocessor_config.json)"
    try:
        made = _turn(frame)
    except Exception as error:
        return f"{files} {_raises(error)} on a picture"
    odd = [
        k for k, v in made.items() if torch.is_tensor(v) and v.is_floating_point() and not v.isfinite().all()
    ]
    return f"{files} makes {odd[0]} that are not finite of a black picture" if odd else None


def check_tokenizer(folder: Path) -> None:
    """Whether what a tokenizer does around its vocabulary ends: patterns, replacements, added tokens.

    Raises:
        InputError: it does not.
    """
    path = folder / "tokenizer.json"
    if not path.exists():
        return
    from tokenizers import Tokenizer

    about = read_object(path, LARGEST)
    tokens = about.get("added_tokens")
    if isinstance(tokens, list) and len(tokens) > MOST:
        raise InputError(f"{path}: added_tokens has {len(tokens):,} entries, at most {MOST:,}; correct it")
    text = json.dumps(about | {"model": {"type": "BPE", "vocab": {}, "merges": []}})
    if not ends(lambda: Tokenizer.from_str(text).encode(QUESTION)):
        raise InputError(f"{path}: {SAID}; use the file that the model came with")


def check_ends(processor: Any) -> None:
    """Whether chat template, tokenizer and image processor come to an end with a turn of a few words.

    Raises:
        InputError: they do not.
    """

    def template() -> None:
        processor.apply_chat_template(list(user_turn("a")), add_generation_prompt=True)

    def turn() -> None:
        torch.set_num_threads(1)  # those of the parent are not in its child
        _turn(AnswerFrame(processor))

    if not ends(template):
        raise InputError(f"the chat template {SAID} on a turn of one letter; use another")
    if not ends(turn):
        raise InputError(
            f"the processor {SAID} on a turn with a picture of {SIDE} x {SIDE} pixels; use the files that "
            "the model came with (tokenizer.json, processor_config.json, preprocessor_config.json)"
        )


def _turn(frame: AnswerFrame) -> Any:
    """One question about a picture, as tokens and pixels."""
    return ask(frame, [Image.new("RGB", (SIDE, SIDE))], [QUESTION])


def _raises(error: Exception) -> str:
    reason = " ".join(str(error).split())[:200]
    return f"raises {type(error).__name__} ({reason})"


def time_in_template(processor: Any) -> bool:
    """Whether the chat template writes the time, which makes two runs of one seed differ."""
    templates = (getattr(part, "chat_template", None) for part in (processor, processor.tokenizer))
    texts = [t for found in templates for t in (found.values() if isinstance(found, dict) else [found]) if t]
    return any(re.search(r"\bstrftime_now\b", text) for text in texts)
