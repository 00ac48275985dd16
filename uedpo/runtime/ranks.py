"""Which rank this process is, by what started it, and what several ranks ask of a configuration.

Asked before Lightning is imported, and answered as Lightning answers: torchrun first, then srun.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

INTERACTIVE = ("bash", "interactive")  # jobs of SLURM in which a person starts processes


class Launched(NamedTuple):
    """This process among the `size` that `by` started."""

    by: str
    rank: int
    size: int


def launched() -> Launched | None:
    """How this process was started as one of several; None where nothing but a shell did."""
    env = os.environ
    if "TORCHELASTIC_RUN_ID" in env:
        return Launched("torchrun", int(env["RANK"]), int(env["WORLD_SIZE"]))
    if "SLURM_NTASKS" in env and env.get("SLURM_JOB_NAME") not in INTERACTIVE:
        return Launched("srun", int(env.get("SLURM_PROCID", "0")), int(env["SLURM_NTASKS"]))
    return None


def rank() -> int:
    """0 for the one process that writes."""
    found = launched()
    # without a launcher Lightning starts the other ranks itself, and tells them so
    return found.rank if found else int(os.environ.get("LOCAL_RANK", "0"))


def world_size() -> int:
    """How many processes the launcher started; 1 without one."""
    found = launched()
    return found.size if found else 1


def launch_problems(trainer: Mapping[str, Any]) -> list[str]:
    """What the launcher has otherwise than this part of a configuration; empty where they agree."""
    devices, nodes = trainer.get("devices") or 1, trainer.get("num_nodes") or 1
    found = launched()
    if found and found.size != devices * nodes:
        return [
            f"trainer.devices={devices}, trainer.num_nodes={nodes}: {devices * nodes} ranks, but {found.by} "
            f"started {found.size}; start as many processes as devices x nodes"
        ]
    if nodes > 1 and not found:
        return [f"trainer.num_nodes={nodes}: start the run with torchrun or srun, see docs/scale.md"]
    return []


def gpu_problems(trainer: Mapping[str, Any]) -> list[str]:
    """Whether this machine has the GPUs that this part of a configuration asks for; empty where it has."""
    if trainer.get("accelerator") != "gpu":
        return []
    import torch

    devices, there = trainer.get("devices") or 1, torch.cuda.device_count()
    if there >= devices:
        return []
    built = torch.version.cuda or torch.version.hip
    why = "" if built else f"; torch {torch.__version__} is built without CUDA"
    return [
        f"trainer.accelerator=gpu, trainer.devices={devices}: torch sees {there} GPUs here{why}; go to a "
        "machine that has them, or use trainer=cpu"
    ]


def folder_problems(overrides: Sequence[str]) -> list[str]:
    """Ranks that would write to directories of their own, because their clocks name them."""
    given = any(o.lstrip("+").startswith(("hydra.run.dir=", "hydra.sweep.dir=")) for o in overrides)
    if given or world_size() == 1:
        return []
    return ["hydra.run.dir: the clocks of the ranks would name different directories; add hydra.run.dir=DIR"]
