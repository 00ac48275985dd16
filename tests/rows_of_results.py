"""Made-up rows of a results file: two methods, three seeds, and the base model."""

import numpy as np
from omegaconf import OmegaConf

from uedpo.results.keys import base_config, trial_config
from uedpo.results.statistics import ratio_metrics
from uedpo.results.store import append_row, make_row

COUNTS = ("captions", "mentions", "hallucinated", "hallucinated_captions", "present", "found",
          "small_present", "small_found", "attributes", "attributes_right", "positions",
          "positions_right", "pope", "pope_right", "words")  # fmt: skip
CONFIG = {
    "name": "n", "method": "DPO", "seed": 0, "threads": 1, "results": "r.jsonl", "logger": {"a": 1},
    "callbacks": {"b": 1}, "model": {"path": "m", "lora": {"r": 4}}, "evaluation": {"start": 5},
    "loss": {"_target_": "uedpo.loss.dpo.dpo_loss", "beta": "${model.lora.r}"}, "weights": {},
    "optim": {"lr": 0.1},
}  # fmt: skip


def config(**changes):
    return trial_config(OmegaConf.create(CONFIG | changes))


def scenes(rate, seed=0, num=200):
    rng = np.random.default_rng(seed)
    wrong = rng.random(num) < rate
    return [dict.fromkeys(COUNTS, 1) | {"mentions": 2, "hallucinated": int(w)} for w in wrong]


def row(method, seed, rate, **changes):
    rows = scenes(rate, seed)
    made = config(method=method, seed=seed, **changes)
    return make_row(made, {"shift": ratio_metrics(rows, resamples=20)}, {"shift": rows}, 1.0)


def base_row(rate=0.2):
    rows = scenes(rate, 99)
    made = base_config(OmegaConf.create(CONFIG))
    return make_row(made, {"shift": ratio_metrics(rows, resamples=20)}, {"shift": rows}, 1.0)


def stored(path):
    for made in [row("DPO", s, 0.4) for s in (0, 1, 2)] + [row("UE-DPO", s, 0.1) for s in (2, 1, 0)]:
        append_row(path, made)
    append_row(path, base_row())
    return path
