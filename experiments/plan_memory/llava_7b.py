"""A step of LLaVA-1.5-7B's shape in the paper's setting, counted without weights: `python .../llava_7b.py`.

One pair of 60 prompt, 576 image and 100 response tokens, LoRA of rank 128, bf16, DDP; with the attention of a
CPU and with that of a GPU.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "step_time"), str(HERE.parent.parent)]

from shape import Shape, make_batch, make_model  # noqa: E402

from uedpo.loss import ue_dpo_loss  # noqa: E402
from uedpo.model.hf import HFModel, lora  # noqa: E402
from uedpo.module import PreferenceModule  # noqa: E402
from uedpo.optim import adamw_cosine  # noqa: E402
from uedpo.plan.step import Counted, count_step  # noqa: E402
from uedpo.scoring.varlen import CAPABILITY  # noqa: E402
from uedpo.weights.probe import UncertaintyProbe  # noqa: E402

SHAPE = Shape(
    hidden=4096, layers=32, intermediate=11_008, heads=32, rank=128, tower_hidden=1024, tower_layers=24
)


def counted(checkpointing: bool, gpu: bool, layers: int = SHAPE.layers) -> Counted:
    """Of one pair."""
    shape = Shape(**{**vars(SHAPE), "layers": layers})
    with torch.device("meta"):
        config: Any = make_model(shape).config
    source = HFModel(
        "random", lora=lora(r=shape.rank), dtype="bfloat16", gradient_checkpointing=checkpointing
    )
    module = PreferenceModule(
        source, functools.partial(ue_dpo_loss, beta=0.1), functools.partial(adamw_cosine, lr=1e-5)
    )
    return count_step(
        module, UncertaintyProbe(alpha=0.3), make_batch(shape), config=config, autocast=True, clip=True,
        ddp=True, fused_optimiser=True, capability=CAPABILITY if gpu else None,
    )  # fmt: skip


def main() -> None:
    print("| checkpointing | attention of | peak, GB | kept for the backward pass, GB | TFLOP a pair |")
    print("|---|---|---|---|---|")
    for checkpointing in (True, False):
        for gpu in (False, True):
            found = counted(checkpointing, gpu)
            work = sum(found.flops.values()) / 1e12
            print(
                f"| {'on' if checkpointing else 'off'} | {'a GPU' if gpu else 'a CPU'} | "
                f"{found.peak / 1e9:.1f} | {found.kept / 1e9:.2f} | {work:.1f} |"
            )


if __name__ == "__main__":
    main()
