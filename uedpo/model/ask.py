"""What a model is given to answer, and where it stops: the frame in which its rows are trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from uedpo.errors import InputError
from uedpo.model.chat import TOKEN_TYPES, AnswerFrame, user_turn


def ask(frame: AnswerFrame, images: Sequence[Any] | None, prompts: Sequence[str]) -> Any:
    """What a model is given to answer one user turn each, padded on the left, as rows are trained.

    Args:
        images: one for each prompt, or None for none.

    Raises:
        InputError: the prompts cannot share a batch; see `AnswerFrame`.
    """
    rendered = [frame.render(user_turn(prompt, with_image=images is not None), ()) for prompt in prompts]
    given = (
        {} if images is None else {"images": [[image] for image in images]}
    )  # some take a flat list for one
    made = frame.processor(
        **given, text=[t.probe for t in rendered], return_tensors="pt", padding=True, padding_side="left",
        **frame.options(rendered[0].probe),
    )  # fmt: skip
    ids = made["input_ids"]
    kept = {len(frame.context(t, row)) for t, row in zip(rendered, ids.tolist(), strict=True)}
    if len(kept) > 1:
        raise InputError("these prompts end in other numbers of tokens; use batch_size=1")
    (width,) = kept
    for name in ("input_ids", "attention_mask", *TOKEN_TYPES):
        if name in made:
            made[name] = made[name][:, :width]
    return made


def ends_of(frame: AnswerFrame, model: Any) -> list[int]:
    """Ids at which generating stops: the model's own, and the end of turn that it is trained on."""
    own = model.generation_config.eos_token_id
    return sorted({frame.end, *([] if own is None else [own] if isinstance(own, int) else own)})
