"""What a training step costs, TRL and ours: `python experiments/step_time/run.py [--quick] [--json PATH]`,
or `--grid`, or `--signals`.

CPU seconds on one thread, medians of interleaved repetitions; memory in a process per variant.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from shape import LLAVA_7B, Shape, flops_per_pair
from variants import OURS, SIGNALS, TRL, steps

HERE = Path(__file__).parent
GRID = ("trl", "dpo", "ue_dpo_live", "ue_dpo_cached")


def seconds_per_pair(shape: Shape, names: tuple[str, ...], repetitions: int) -> dict[str, list[float]]:
    """CPU seconds of each repetition; every variant steps once before, and once in each round."""
    run = steps(shape, names)
    first = {name: step() for name, step in run.items()}
    if {"trl", "dpo"} <= set(names) and abs(first["trl"] - first["dpo"]) > 1e-4:
        raise RuntimeError(f"TRL and this package disagree on the loss: {first}")
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(repetitions):
        for name, step in run.items():
            begin = time.process_time()
            step()
            times[name].append((time.process_time() - begin) / shape.batch_size)
    return times


def peak_mb(name: str, shape: Shape) -> float:
    """Peak resident memory of one step above what model and optimiser hold, MB (10^6 bytes); Linux."""
    step = steps(shape, (name,))[name]
    step()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
    before = _status("VmRSS")
    step()
    return (_status("VmHWM") - before) / 1e6


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))


def peak_in_own_process(name: str, response_tokens: int) -> float:
    command = [sys.executable, __file__, "--peak-of", name, "--response-tokens", str(response_tokens)]
    # memory that is freed goes back at once, so that the mark counts what is alive
    env = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr[-2000:]}")
    return float(done.stdout.split()[-1])


def compare(repetitions: int, response_tokens: int) -> dict[str, dict[str, float]]:
    """The comparison that `--json` writes."""
    names = TRL + OURS
    shape = Shape(response_tokens=response_tokens)
    times = {name: median(v) for name, v in seconds_per_pair(shape, names, repetitions).items()}
    with ThreadPoolExecutor(2) as pool:  # after the timing, which wants quiet
        peaks = pool.map(lambda name: peak_in_own_process(name, response_tokens), names)
    return {
        name: {
            "seconds_per_pair": times[name],
            "ratio_to_trl": times[name] / times["trl"],
            "peak_mb": peak,
        }
        for name, peak in zip(names, peaks, strict=True)
    }


def table(result: dict[str, dict[str, float]], response_tokens: int) -> str:
    work = flops_per_pair(Shape(response_tokens=response_tokens))
    large = flops_per_pair(Shape(response_tokens=response_tokens, **LLAVA_7B))
    lines = [
        "| variant | s / pair | / trl | FLOPs / trl | the same, LLaVA-1.5-7B | peak MB | / trl |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in result.items():
        counted = [f"{w[name] / w['trl']:.3f}" if name in w else "" for w in (work, large)]
        lines.append(
            f"| {name} | {row['seconds_per_pair']:.2f} | {row['ratio_to_trl']:.3f} | {counted[0]} | "
            f"{counted[1]} | {row['peak_mb']:.0f} | {row['peak_mb'] / result['trl']['peak_mb']:.2f} |"
        )
    live = result["ue_dpo_live"]["seconds_per_pair"]
    return "\n".join(lines) + (
        f"\n\nue_dpo_live / dpo: {live / result['dpo']['seconds_per_pair']:.3f}; "
        f"ue_dpo_live / trl_stock: {live / result['trl_stock']['seconds_per_pair']:.3f}\n"
    )


def signals(repetitions: int, path: Path) -> None:
    """The step with other signals in the place of u, beside TRL's DPO, ours and UE-DPO."""
    names = ("trl", "dpo", "ue_dpo_live", *SIGNALS)
    times = {name: median(t) for name, t in seconds_per_pair(Shape(), names, repetitions).items()}
    lines = ["| step | / trl | / dpo |", "|---|---|---|"]
    lines += [f"| {n} | {t / times['trl']:.3f} | {t / times['dpo']:.3f} |" for n, t in times.items()]
    print("\n".join(lines))
    path.write_text("\n".join(lines) + "\n")


def grid(path: Path, repetitions: int) -> None:
    """Ratios to TRL over response lengths and batch sizes, measured and counted, a row at a time."""
    lines = [
        "| R | batch | trl s / pair | dpo | live | live, FLOPs | cached | cached, FLOPs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for response_tokens in (50, 100, 200, 400):
        for batch_size in (1, 2, 4):
            shape = Shape(response_tokens=response_tokens, batch_size=batch_size)
            times = seconds_per_pair(shape, GRID, repetitions)
            # of each round, whose steps are neighbours in time: rounds lie minutes apart
            ratios = {n: median(a / b for a, b in zip(times[n], times["trl"], strict=True)) for n in GRID}
            work = flops_per_pair(shape)
            live, cached = (
                f"{ratios[n]:.3f} | {work[n] / work['trl']:.3f}" for n in ("ue_dpo_live", "ue_dpo_cached")
            )
            lines.append(
                f"| {response_tokens} | {batch_size} | {median(times['trl']):.2f} | "
                f"{ratios['dpo']:.3f} | {live} | {cached} |"
            )
            print(lines[-1], flush=True)
            path.write_text("\n".join(lines) + "\n")


def plot(result: dict[str, dict[str, float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True, layout="constrained")
    names = list(result)[::-1]
    colors = ["#b9bec5" if name.startswith("trl") else "#2b6cb0" for name in names]
    for axis, key, label in zip(
        axes, ("seconds_per_pair", "peak_mb"), ("CPU seconds per pair", "peak MB of a step"), strict=True
    ):
        bars = axis.barh(names, [result[name][key] for name in names], color=colors)
        axis.bar_label(bars, fmt="%.2f" if key == "seconds_per_pair" else "%.0f", padding=3)
        axis.set_xlabel(label)
        axis.margins(x=0.15)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="3 repetitions, under 5 minutes")
    parser.add_argument(
        "--grid", action="store_true", help="response lengths and batch sizes instead, 3 repetitions"
    )
    parser.add_argument("--signals", action="store_true", help="other signals in the place of u instead")
    parser.add_argument("--repetitions", type=int, help="default: 7, and 3 with --quick or --grid")
    parser.add_argument("--response-tokens", type=int, default=100)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peak_of:
        print(peak_mb(options.peak_of, Shape(response_tokens=options.response_tokens)))
        return
    repetitions = options.repetitions or (3 if options.quick or options.grid else 7)
    if options.grid:
        grid(HERE / "grid.md", repetitions)
        return
    if options.signals:
        signals(repetitions, HERE / "signals.md")
        return
    result: dict[str, Any] = compare(repetitions, options.response_tokens)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    text = table(result, options.response_tokens)
    print(text)
    if not options.quick:
        plot(result, HERE / "step_time.png")
        (HERE / "table.md").write_text(text)


if __name__ == "__main__":
    main()
