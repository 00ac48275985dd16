"""One user turn in a model's own chat template."""

from __future__ import annotations

from typing import Any


def chat_prompt(processor: Any, text: str, with_image: bool = True) -> str:
    """The processor's own chat template around one user turn, ready for an answer."""
    content: list[dict[str, str]] = [{"type": "image"}] if with_image else []
    content.append({"type": "text", "text": text})
    return str(
        processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    )
