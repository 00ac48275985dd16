"""Seeds and scenes that would tell apart what the tables here do not.

`python experiments/compare_methods/needed.py` writes needed.md: every method whose CHAIR_s or coverage is not
told from DPO's or from UE-DPO's in a setting. Told means that in four comparisons of five the 95 % interval
leaves 0 out.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from uedpo.metrics import CAPTION_RATIOS, paired_bootstrap, paired_variances
from uedpo.results import BASE, read_rows, unpack

HERE = Path(__file__).parent
SETTINGS = {"tuned": "results.jsonl", "aggressive": "aggressive.jsonl"}
METRICS = {"chair_s": "CHAIR_s", "coverage": "coverage"}
TOLD = 1.96 + 0.84  # standard errors: two-sided 5 %, power 80 %
WANTED = {"tuned": 0.005, "aggressive": 0.01}
SCENES = (1000, 10000)


def counts(path: Path) -> dict[str, np.ndarray]:
    """method -> [seeds, scenes, columns of all metrics], seeds in ascending order."""
    found: dict[str, dict[int, np.ndarray]] = {}
    for row in read_rows(path).values():
        if row["method"] != BASE:
            table = unpack(row["counts"]["shift"])
            columns = [table[name] for metric in METRICS for name in CAPTION_RATIOS[metric]]
            found.setdefault(row["method"], {})[row["config"]["seed"]] = np.stack(columns, -1)
    return {method: np.stack([seeds[s] for s in sorted(seeds)]) for method, seeds in found.items()}


def seeds_needed(difference: float, variances: tuple[float, float, float], scenes: int) -> int | None:
    """Seeds with which `difference` is told on so many scenes; None where no number of seeds is enough."""
    of_seeds, of_scenes, of_both = variances
    left = (difference / TOLD) ** 2 - of_scenes / scenes
    return max(2, math.ceil((of_seeds + of_both / scenes) / left)) if left > 0 else None


def row(setting: str, method: str, reference: str, metric: str, a: np.ndarray, b: np.ndarray) -> str | None:
    """A line of the table; None where the two are told apart."""
    at = 2 * list(METRICS).index(metric)
    a, b = a[..., at : at + 2], b[..., at : at + 2]
    found = paired_bootstrap(a, b)
    value, low, high = (100 * (found[key] or 0.0) for key in ("value", "low", "high"))
    if low > 0 or high < 0:
        return None
    variances = paired_variances(a, b)
    seeds, scenes = a.shape[:2]
    now = variances[0] / seeds + variances[1] / scenes + variances[2] / (seeds * scenes)
    needed = [seeds_needed(WANTED[setting], variances, n) for n in SCENES]
    cells = [setting, f"{method} - {reference}", METRICS[metric], f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"]
    cells += [f"{100 * TOLD * math.sqrt(now):.1f}", f"{100 * WANTED[setting]:.1f}"]
    cells += ["none suffices" if n is None else str(n) for n in needed]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    head = ["setting", "difference", "of", "per cent [95 %]", "told with 5 seeds, 1,000 scenes", "to tell"]
    head += [f"seeds at {n:,} scenes" for n in SCENES]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for setting, file in SETTINGS.items():
        known = counts(HERE / file)
        pairs = [(m, r) for r in ("DPO", "UE-DPO") for m in known if m not in ("DPO", r)]
        found = [row(setting, m, r, metric, known[m], known[r]) for metric in METRICS for m, r in pairs]
        lines += [line for line in found if line]
    (HERE / "needed.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
