"""Stage 1 of the base model: a CLIP vision tower that knows what is where.

Dense supervision: each patch predicts the categories and colours of the items that cover it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPVisionConfig, CLIPVisionModel

from uedpo.microworld.scene import CATEGORIES, COLOURS, IMAGE_SIZE, Scene, make_scene, render

PATCH = 12
GRID = IMAGE_SIZE // PATCH
NUM_LABELS = len(CATEGORIES) + len(COLOURS)
PIXEL_MEAN, PIXEL_STD = 0.5, 0.25


def vision_config() -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=IMAGE_SIZE,
        patch_size=PATCH,
        projection_dim=128,
    )


def pixels(scene: Scene) -> torch.Tensor:
    """Normalised pixels [3, H, W], as the shipped processor makes them."""
    array = np.asarray(render(scene), dtype=np.float32) / 255
    return torch.from_numpy((array - PIXEL_MEAN) / PIXEL_STD).permute(2, 0, 1)


def patch_labels(scene: Scene) -> torch.Tensor:
    """[64, 29] of 0/1: what covers at least a fifth of a patch (or of the item)."""
    labels = torch.zeros(GRID, GRID, NUM_LABELS)
    edges = np.arange(GRID) * PATCH
    for item in scene.items:
        column = [CATEGORIES.index(item.category), len(CATEGORIES) + list(COLOURS).index(item.colour)]
        for x, y, side in item.boxes:
            width = np.clip(np.minimum(edges + PATCH, x + side) - np.maximum(edges, x), 0, None)
            height = np.clip(np.minimum(edges + PATCH, y + side) - np.maximum(edges, y), 0, None)
            hit = torch.from_numpy(np.outer(height, width) >= 0.2 * min(PATCH, side) ** 2)
            for c in column:
                labels[..., c][hit] = 1.0
    return labels.flatten(0, 1)


class PatchScenes(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Uniform scenes (`shift` rules) from an index range that no other stage uses."""

    def __init__(self, start: int, num: int) -> None:
        self.start, self.num = start, num

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        scene = make_scene("shift", self.start + i)
        return pixels(scene), patch_labels(scene)


def train_tower(steps: int, start: int, batch_size: int = 64, lr: float = 1.5e-3) -> CLIPVisionModel:
    """Train the tower; returns it in eval mode. Prints the patch recall as it goes."""
    torch.manual_seed(0)
    tower = CLIPVisionModel(vision_config())
    head = torch.nn.Linear(128, NUM_LABELS)
    parameters = [*tower.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.08)
    loader = DataLoader(PatchScenes(start, steps * batch_size), batch_size, num_workers=1)
    for step, (image, label) in enumerate(loader):
        with torch.autocast("cpu", torch.bfloat16):
            logits = head(tower(image, output_hidden_states=True).hidden_states[-1][:, 1:])
        logits = logits.float()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, label, pos_weight=torch.tensor(3.0)
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            hit = (logits > 0)[label > 0].float().mean()
            print(f"tower {step}: loss {loss.item():.4f} patch recall {hit:.3f}", flush=True)
    tower.eval()
    return tower
