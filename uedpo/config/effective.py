"""What a run will train with, in one line, and a warning where that does not fit the size of the model."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

PAPER_RATE = 1e-5  # of its models of 3, 7 and 13 billion parameters
TIMES = 10
REAL_SIZE = 5e8  # parameters of the decoder layers, above which the paper's rate is a measure


def effective_lines(cfg: DictConfig, config: Any) -> list[str]:
    """The values that matter most, whoever set them.

    Args:
        cfg: of the run.
        config: of the model, transformers'.
    """
    trainer, lora = cfg.trainer, cfg.model.lora
    trained = "the whole language model" if lora is None else f"LoRA r={lora.r}"
    pairs = (
        cfg.data.get("batch_size", 1) * trainer.accumulate_grad_batches * trainer.devices * trainer.num_nodes
    )
    lines = [
        f"trains {trained}: optim.lr={cfg.optim.lr:g}, loss.beta={cfg.loss.beta:g}, {pairs} pairs a step, "
        f"{trainer.max_steps} steps, {cfg.model.dtype} weights, {trainer.precision}, gradient checkpointing "
        f"{'on' if cfg.model.gradient_checkpointing else 'off'}"
    ]
    times = cfg.optim.lr / PAPER_RATE
    if times > TIMES * (1 + 1e-9) and decoder_parameters(config) > REAL_SIZE:
        lines.append(
            f"WARNING: optim.lr={cfg.optim.lr:g} is {times:.0f} times the rate that the paper trains "
            f"models of this size with ({PAPER_RATE:g})"
        )
    return lines


def decoder_parameters(config: Any) -> float:
    """About how many parameters the decoder layers have: 12 H^2 a layer."""
    text = config.get_text_config()
    layers, hidden = getattr(text, "num_hidden_layers", 0), getattr(text, "hidden_size", 0)
    return 12.0 * layers * hidden**2
