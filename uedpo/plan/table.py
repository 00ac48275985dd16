"""The table of `uedpo.plan`."""

from __future__ import annotations

from uedpo.config.effective import effective_lines
from uedpo.plan.count import Setting
from uedpo.plan.devices import Device
from uedpo.plan.step import PASSES, Counted

NOT_COUNTED = (
    "not counted: what kernels allocate for themselves, the allocator's fragments, the CUDA context, NCCL's\n"
    "  buffers; leave a tenth free (a rule of thumb, not measured on a GPU)"
)
ON_CPU = "trainer.accelerator=cpu, so precision, clipping and optimiser are those of a run on a CPU"


def size(num_bytes: float) -> str:
    """10^9 or 10^6 bytes, in a column."""
    return f"{num_bytes / 1e9:10.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:10.2f} MB"


def work(flops: float) -> str:
    """10^15, 10^12 or 10^9 operations."""
    unit, name = next((u, n) for u, n in ((1e15, "P"), (1e12, "T"), (1e9, "G")) if flops >= u or n == "G")
    return f"{flops / unit:10.2f} {name}FLOP"


def head_lines(setting: Setting, name: str, device: Device) -> list[str]:
    """What was counted."""
    cfg, trainer = setting.cfg, setting.cfg.trainer
    trained = "whole language model" if cfg.model.lora is None else f"LoRA r={cfg.model.lora.r}"
    probe = str(cfg.weights.get("_target_", "no token weights")).rsplit(".", 1)[-1]
    warned = name != "cpu" and not setting.gpu
    memory = "memory not given" if device.gb is None else f"{device.gb:g} GB"
    return [
        *([f"WARNING: {ON_CPU}; add trainer=gpu for a run on {name}"] if warned else []),
        f"model: {cfg.model.path} ({setting.config.model_type}, {cfg.model.dtype}, {trained}, gradient "
        f"checkpointing {'on' if cfg.model.gradient_checkpointing else 'off'}); scoring={cfg.scoring}; "
        f"loss {cfg.loss._target_.rsplit('.', 1)[-1]}, {probe}",
        f"devices: {trainer.num_nodes * trainer.devices} x {name} ({memory}), {trainer.precision}; a step: "
        f"{cfg.data.batch_size} pairs x {trainer.accumulate_grad_batches} micro-batches a device",
        f"attention: {setting.attention()}",
        *effective_lines(cfg, setting.config),
        *setting.sample.lines,
    ]


def memory_lines(setting: Setting, counted: Counted, device: Device) -> list[str]:
    """Parts at the peak, passes, and whether it fits."""
    lines = ["", f"memory of each device at the peak, a micro-batch of the longest rows ({counted.where}):"]
    lines += [f"  {name:<32}{size(value)}" for name, value in counted.parts.items()]
    verdict = ""
    if device.gb is not None:
        fits = counted.peak <= device.gb * 1e9
        verdict = f"  of {device.gb:g} GB: " + ("fits" if fits else "does not fit")
    lines.append(f"  {'total':<32}{size(counted.peak)}{verdict}")
    lines += ["  highest while it runs:"]
    lines += [f"    {name:<30}{size(value)}" for name, value in counted.peaks.items()]
    lines.append(f"  kept from the policy's forward pass for the backward pass: {size(counted.kept).strip()}")
    return [*lines, f"  {NOT_COUNTED}"]


def flops_lines(setting: Setting, pair: Counted, device: Device, mfu: float) -> list[str]:
    """Work of a pair of median length, of a step and the run, and an estimate of their time."""
    cfg, trainer = setting.cfg, setting.cfg.trainer
    total = sum(pair.flops.values())
    lines = ["", "work for a pair of median length (matrix products; a multiply-add is two operations):"]
    lines += [f"  {name:<32}{work(pair.flops[name])}" for name in PASSES if name in pair.flops]
    lines.append(f"  {'total':<32}{work(total)}")
    step = total * cfg.data.batch_size * trainer.accumulate_grad_batches
    devices = trainer.devices * trainer.num_nodes
    lines.append(f"  {'a step, on each device':<32}{work(step)}")
    lines.append(
        f"  {f'{trainer.max_steps} steps, all devices':<32}{work(step * devices * trainer.max_steps)}"
    )
    speed = device.fp32 if trainer.precision == "32-true" and cfg.model.dtype == "float32" else device.bf16
    if speed is None:
        return [*lines, "time: give device= or device_tflops= for an estimate"]
    seconds = step / (speed * 1e12 * mfu)
    return [
        *lines,
        f"time, a rough estimate: work / ({speed:g} TFLOP/s x mfu={mfu:g}): {seconds:.3g} s a step, "
        f"{duration(seconds * trainer.max_steps)} a run",
        "  without validation and evaluation; mfu is an assumption, not measured",
    ]


def duration(seconds: float) -> str:
    """Seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"
