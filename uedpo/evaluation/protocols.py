"""How published protocols ask and decode, as their scripts do."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from PIL import Image

Benchmark = Literal[
    "pope", "chair", "amber_generative", "amber_discriminative", "mmhal", "object_halbench"
]  # fmt: skip
Protocol = Literal["rlaifv", "opadpo", "greedy"]


class Decoding(NamedTuple):
    """What determines an answer beside model and prompt.

    Attributes:
        temperature: 0 for no sampling.
        max_new_tokens: a longer answer is cut.
        image_aspect: "pad" puts the image on a square of the processor's mean colour first.
        suffix: what follows each prompt.
    """

    temperature: float
    num_beams: int
    max_new_tokens: int
    image_aspect: Literal["keep", "pad"]
    suffix: str


def decoding(protocol: Protocol, benchmark: Benchmark) -> Decoding:
    """RLAIF-V's evaluation, OPA-DPO's, or plain greedy decoding.

    RLAIF-V has no script for POPE and AMBER: there `rlaifv` is its decoding with the benchmark's own
    prompt. OPA-DPO's shell script quotes POPE's suffix so that the model reads a literal backslash-n.
    """
    if protocol == "rlaifv":
        return Decoding(0.0, 3, 1024, "keep", "")
    if protocol == "greedy":
        return Decoding(0.0, 1, 1024, "keep", "")
    if benchmark == "pope":
        suffix = r"\nAnswer the question using a single word or phrase."
        return Decoding(0.0, 1, 64, "pad", suffix)
    return Decoding(0.0, 1, 1024, "pad", "")


def on_square(image: Image.Image, processor: Any) -> Image.Image:
    """`image` in the middle of a square of the processor's mean colour (LLaVA's "pad")."""
    mean = processor.image_processor.image_mean
    colour = tuple(int(255 * x) for x in mean)
    side = max(image.size)
    square = Image.new("RGB", (side, side), colour)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square
