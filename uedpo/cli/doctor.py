"""What this machine has, and what to do about what it lacks: `uedpo doctor`.

A line each for versions, devices, attention, optional packages, the hub, memory and disk. A line that begins
with "  ->" is advice. Nothing is changed.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from uedpo.config.command_line import answer
from uedpo.errors import InputError

GB = 1e9
NEEDED = (
    "torch",
    "transformers",
    "pytorch-lightning",
    "peft",
    "diffusers",
    "hydra-core",
    "omegaconf",
    "wandb",
)
EXTRAS = {
    "data": "data sets of the hub, and parquet files",
    "gpu": "4-bit and 8-bit models",
    "sweep": "searches with optuna, jobs of SLURM",
    "models": "processors that need torchvision or num2words",
    "eval": "the official scores of benchmarks",
    "tensorboard": "logger=tensorboard",
    "wandb": "W&B workspaces made from a sweep",
}  # fmt: skip


def report(arguments: Sequence[str]) -> str:
    """The whole answer, a line for each thing.

    Raises:
        InputError: there were arguments.
    """
    if arguments:
        raise InputError(f"{' '.join(arguments)[:100]}: uedpo doctor takes no arguments")
    parts = (_versions(), _devices(), _extras(), _hub(), _space())
    return "\n".join(line for part in parts for line in part)


def _line(name: str, said: str) -> str:
    return f"{name:19}{said}"


def _advice(said: str) -> str:
    return f"  -> {said}"


def _versions() -> Iterator[str]:
    yield _line("python", platform.python_version())
    ranges = {r.name: r for r in map(Requirement, requires("uedpo") or []) if r.marker is None}
    for name in NEEDED:
        try:
            found = version(name)
        except PackageNotFoundError:
            yield _line(name, "missing")
            yield _advice(f"pip install '{ranges.get(name, name)}'")
            continue
        yield _line(name, found)
        wanted = ranges.get(name)
        if wanted is not None and not wanted.specifier.contains(found, prereleases=True):
            yield _advice(f"outside of what was tested; pip install '{wanted}'")


def _devices() -> Iterator[str]:
    import torch

    from uedpo.scoring.varlen import branch

    if not torch.cuda.is_available():
        yield _line("devices", f"no GPU; {os.cpu_count()} processor cores, {torch.get_num_threads()} threads")
        if torch.version.cuda is None and shutil.which("nvidia-smi"):
            yield _advice(f"torch {torch.__version__} is built without CUDA: install a build that has it")
        else:
            yield _advice("the micro-world trains here; uedpo plan device=h100 says what a real model needs")
        yield _line("attention", branch(torch.device("cpu"), half=True, head_dim=128))
        return
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        size = f"{about.total_memory / GB:.0f} GB, compute capability {about.major}.{about.minor}"
        yield _line(f"cuda:{number}", f"{about.name}, {size}")
        attention = branch(torch.device("cuda", number), half=True, head_dim=128)
        yield _line("attention", f"{attention}, in bfloat16 and heads of 128")
    yield _advice("make gpu, in a checkout, checks and measures this project on it in 8 minutes")


def _extras() -> Iterator[str]:
    for extra, use in EXTRAS.items():
        needs = [Requirement(r) for r in requires("uedpo") or []]
        of_it = [r for r in needs if r.marker is not None and r.marker.evaluate({"extra": extra})]
        missing = [r.name for r in of_it if not _installed(r.name)]
        yield _line(f"[{extra}]", f"{use}: {'not installed' if missing else 'installed'}")
        if missing:
            yield _advice(f"pip install 'uedpo[{extra}]' ({', '.join(missing)})")


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _hub() -> Iterator[str]:
    from huggingface_hub import constants

    from uedpo.runtime.hub import reachable

    if constants.HF_HUB_OFFLINE:
        yield _line("hub", "offline (HF_HUB_OFFLINE=1): models and data sets come from this machine")
    elif reachable():
        yield _line("hub", "answers")
    else:
        yield _line("hub", "does not answer")
        yield _advice("elsewhere: hf download MODEL; then copy the cache, or give model.path=FOLDER")
    yield _line("hub cache", constants.HF_HUB_CACHE)


def _space() -> Iterator[str]:
    free = _free_memory()
    if free is not None:
        yield _line("memory", f"{free / GB:.1f} GB free")
    disk = shutil.disk_usage(Path.cwd()).free
    yield _line("disk", f"{disk / GB:.1f} GB free in {Path.cwd()}")
    if disk < 20 * GB:
        yield _advice("a 7B model takes 14 GB, its adapter and checkpoints 1 to 3 GB a run")
    shared = Path("/dev/shm")
    if shared.is_dir() and (size := shutil.disk_usage(shared).total) < GB:
        yield _line("/dev/shm", f"{size / GB:.2f} GB")
        yield _advice("too small for loader workers: data.num_workers=0, or a container with --shm-size=8g")


def _free_memory() -> float | None:
    """Bytes that this process may still take; None where the system does not say."""
    try:
        pages = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None
    about = Path("/proc/meminfo")
    if not about.is_file():
        return float(pages)
    lines = dict(line.split(":", 1) for line in about.read_text().splitlines() if ":" in line)
    return float(lines["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in lines else float(pages)


def main() -> int:
    """Entry point: exit code 0, or 2 after arguments that it does not take."""
    return answer(__doc__, report)


if __name__ == "__main__":
    raise SystemExit(main())
