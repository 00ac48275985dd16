"""What is missing from the files of a processor, asked before its first row."""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import resource
import signal
from pathlib import Path
from typing import Any

from PIL import Image

from uedpo.errors import InputError
from uedpo.model.ask import ask
from uedpo.model.chat import AnswerFrame, user_turn

# settings without which a processor that takes them cannot count the tokens of an image
COUNTING = ("patch_size", "vision_feature_select_strategy", "image_seq_length")
SIDE = 64  # pixels of the picture that a processor is tried on
QUESTION = "What is it?"
PATIENCE, MEMORY = 5, 2**29  # seconds, bytes


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
        frame.tell(user_turn(QUESTION), ())
    except InputError as error:
        return f"chat_template.jinja (or chat_template of tokenizer_config.json): {error}"
    try:
        ask(frame, [Image.new("RGB", (SIDE, SIDE))], [QUESTION])
    except Exception as error:  # of any library, for a property of a file
        return (
            f"its processor (processor_config.json, preprocessor_config.json) {_raises(error)} on a picture"
        )
    return None


def check_template(processor: Any) -> None:
    """Whether the chat template ends; tried in a child, because a template is a program of others.

    Raises:
        InputError: it takes more than `PATIENCE` seconds or `MEMORY` bytes for one turn of a few letters.
    """
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(Exception):
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(PATIENCE)
            used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_DATA, (used + MEMORY, used + MEMORY))
        try:
            processor.apply_chat_template(list(user_turn("a")), add_generation_prompt=True)
        except MemoryError:
            os._exit(1)
        except BaseException:
            os._exit(0)  # what else is wrong with it is told where it is used
        os._exit(0)
    if os.waitpid(pid, 0)[1]:
        raise InputError(
            f"the chat template does not end within {PATIENCE} s and {MEMORY / 2**20:.0f} MB; use another"
        )


def _raises(error: Exception) -> str:
    reason = " ".join(str(error).split())[:200]
    return f"raises {type(error).__name__} ({reason})"


def time_in_template(processor: Any) -> bool:
    """Whether the chat template writes the time, which makes two runs of one seed differ."""
    templates = (getattr(part, "chat_template", None) for part in (processor, processor.tokenizer))
    texts = [t for found in templates for t in (found.values() if isinstance(found, dict) else [found]) if t]
    return any(re.search(r"\bstrftime_now\b", text) for text in texts)
