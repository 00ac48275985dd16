"""`uedpo.plan`'s FLOPs beside those counted by hand in experiments/step_time: `python .../flops.py`."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "step_time"), str(HERE.parent.parent)]

from shape import Shape, flops_per_pair, make_batch, make_model  # noqa: E402

from uedpo.loss import dpo_loss, ue_dpo_loss  # noqa: E402
from uedpo.model.hf import HFModel, lora  # noqa: E402
from uedpo.module import PreferenceModule  # noqa: E402
from uedpo.optim import adamw_cosine  # noqa: E402
from uedpo.plan.step import count_step  # noqa: E402
from uedpo.weights.probe import UncertaintyProbe  # noqa: E402


def main() -> None:
    shape = Shape()
    config, by_hand = make_model(shape).config, flops_per_pair(shape)
    print("| step | by hand, GFLOP | counted | off % |\n|---|---|---|---|")
    for name, loss, probe in (
        ("dpo", dpo_loss, None),
        ("ue_dpo_live", ue_dpo_loss, UncertaintyProbe(alpha=0.3)),
    ):
        module = PreferenceModule(
            HFModel("random", lora=lora(r=shape.rank)),
            functools.partial(loss, beta=0.1),
            functools.partial(adamw_cosine, lr=1e-4),
        )
        counted = sum(count_step(module, probe, make_batch(shape), config=config).flops.values())
        off = 100 * (counted / by_hand[name] - 1)
        print(f"| {name} | {by_hand[name] / 1e9:.1f} | {counted / 1e9:.1f} | {off:+.1f} |")


if __name__ == "__main__":
    main()
