"""Is `uedpo.plan`'s peak memory the measured one? `python experiments/plan_memory/run.py [--only TEXT]`.

Every setting trains some steps with Lightning in a process of its own, while torch's profiler records each
allocation; the estimate is made from the config alone, here, where no weights are. Writes table.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

HERE = Path(__file__).parent
LIMIT = 15.0  # per cent of the peak
sys.path[:0] = [str(HERE), str(HERE.parent.parent)]

import torch  # noqa: E402
from cases import CASES, Case, batch_of, module_of, source_of  # noqa: E402


def estimated(case: Case) -> int:
    """Bytes at the peak."""
    from uedpo.plan.step import count_step

    module, probe = module_of(case)
    config = source_of(case).config()
    return count_step(module, probe, batch_of(case), config=config, accumulate=case.accumulate > 1).peak


def measured(case: Case) -> dict[str, int]:
    """The same of a real run (storages of weights and batch, and above them what the profiler records), and
    what weights, gradients and optimiser state take."""
    from torch.utils.data import DataLoader

    from uedpo.runtime.quiet import quiet
    from uedpo.trainer import make_trainer

    quiet()
    torch.set_num_threads(1)
    module, probe = module_of(case)
    batch = batch_of(case)
    module.configure_model()
    weights = _bytes([*module.parameters(), *module.buffers()])
    before = weights + _bytes(
        [x for x in (*vars(batch).values(), *batch.inputs.values()) if torch.is_tensor(x)]
    )
    steps = 2
    loader: Any = DataLoader([batch] * steps * case.accumulate, batch_size=None)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(
            max_steps=steps, accumulate_grad_batches=case.accumulate, default_root_dir=folder,
            callbacks=[probe] if probe else [],
        )  # fmt: skip
        with torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
        ) as p:
            trainer.fit(module, loader)
    live = peak = 0
    for event in sorted(_allocations(p), key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    gradients = _bytes([q.grad for q in module.parameters() if q.grad is not None])
    state = [x for s in trainer.optimizers[0].state.values() for x in s.values() if torch.is_tensor(x)]
    return {"peak": before + peak, "held": weights + gradients + _bytes(state)}


def _allocations(profile: Any) -> Iterable[Any]:
    return (e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]")


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Of all storages, each once."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def measured_in_own_process(number: int) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, __file__, "--measure", str(number)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{CASES[number].name}: {done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="settings whose name has this in it")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(measured(CASES[options.measure])))
        return
    lines = [
        "| setting | measured MB | estimate MB | off % | the rest: measured | estimate | off % |",
        "|---|---|---|---|---|---|---|",
    ]
    worst = [0.0, 0.0]
    for number, case in enumerate(CASES):
        if options.only not in case.name:
            continue
        real, made = measured_in_own_process(number), estimated(case)
        above = real["peak"] - real["held"], made - real["held"]
        off = [100 * (b / a - 1) for a, b in ((real["peak"], made), above)]
        worst = [max(w, abs(o)) for w, o in zip(worst, off, strict=True)]
        numbers = [real["peak"] / 1e6, made / 1e6, off[0], above[0] / 1e6, above[1] / 1e6, off[1]]
        kinds = ("{:.2f}", "{:.2f}", "{:+.1f}") * 2
        cells = " | ".join(k.format(n) for k, n in zip(kinds, numbers, strict=True))
        lines.append(f"| {case.name} | {cells} |")
        print(lines[-1], flush=True)
        if not options.only:
            (HERE / "table.md").write_text("\n".join(lines) + "\n")
    print(f"{len(lines) - 2} settings; most off: {worst[0]:.1f} % of the peak, {worst[1]:.1f} % of the rest")
    if worst[0] > LIMIT:
        sys.exit(f"an estimate is more than {LIMIT} % off")


if __name__ == "__main__":
    main()
