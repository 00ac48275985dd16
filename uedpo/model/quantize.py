"""4-bit and 8-bit weights of the language model through bitsandbytes: QLoRA, and a small frozen copy."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # whether weights can be quantised is asked before torch is imported
    import torch

Bits = Literal["4bit", "8bit"]


def why_not(accelerator: str) -> str | None:
    """Why weights cannot be quantised on this machine, with the remedy; None where they can."""
    if accelerator == "cpu":
        return "bitsandbytes is tested on GPUs only; add trainer=gpu, or set it to null"
    if find_spec("bitsandbytes") is None:
        return "bitsandbytes is not installed; pip install bitsandbytes, or set it to null"
    return None


def quantization_config(bits: Bits, dtype: torch.dtype, config: Any) -> Any:
    """transformers' options: NF4 with double quantisation (QLoRA, arXiv 2305.14314, section 3) or LLM.int8().

    Vision tower, projector and head keep their dtype.

    Args:
        dtype: that the matrix products run in.
        config: transformers config of the model.
    """
    import transformers

    from uedpo.model.families import family_of

    options: Any = transformers.BitsAndBytesConfig
    # transformers matches these from the start of a module's path
    kept = [*(f"model.{name}" for name in family_of(config).towers), "lm_head"]
    if bits == "8bit":
        return options(load_in_8bit=True, llm_int8_skip_modules=kept)
    return options(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=kept,
    )
