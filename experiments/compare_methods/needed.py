"""Seeds and scenes that would tell apart what the tables here do not.

`python experiments/compare_methods/needed.py` writes needed.md: every method whose CHAIR_s or coverage is not
told from DPO's or from UE-DPO's in a setting. Told means that in four comparisons of five the 95 % interval
leaves 0 out.
"""

from __future__ import annotations

import math
from pathlib import Path

from uedpo.results.paired import paired_counts
from uedpo.results.runs import runs_of
from uedpo.results.settings import Settings, settings
from uedpo.results.statistics import paired_bootstrap, paired_variances

HERE = Path(__file__).parent
SETTINGS = {"tuned": "results.jsonl", "aggressive": "aggressive.jsonl"}
METRICS = {"chair_s": "CHAIR_s", "coverage": "coverage"}
TOLD = 1.96 + 0.84  # standard errors: two-sided 5 %, power 80 %
WANTED = {"tuned": 0.005, "aggressive": 0.01}
SCENES = (1000, 10000)


def seeds_needed(difference: float, variances: tuple[float, float, float], scenes: int) -> int | None:
    """Seeds with which `difference` is told on so many scenes; None where no number of seeds is enough."""
    of_seeds, of_scenes, of_both = variances
    left = (difference / TOLD) ** 2 - of_scenes / scenes
    return max(2, math.ceil((of_seeds + of_both / scenes) / left)) if left > 0 else None


def row(setting: str, method: str, reference: str, metric: str, known: Settings) -> str | None:
    """A line of the table; None where the two are told apart."""
    pair = paired_counts(known[(method,)], known[(reference,)], "shift", metric)
    assert pair is not None, f"{method} and {reference} share no seed"
    found = paired_bootstrap(*pair)
    value, low, high = (100 * (found[key] or 0.0) for key in ("value", "low", "high"))
    if low > 0 or high < 0:
        return None
    variances = paired_variances(*pair)
    seeds, scenes = pair[0].shape[:2]
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
        known = settings(runs_of(HERE / file), ["method"])
        pairs = [(m, r) for r in ("DPO", "UE-DPO") for (m,) in known if m not in ("DPO", r)]
        found = [row(setting, m, r, metric, known) for metric in METRICS for m, r in pairs]
        lines += [line for line in found if line]
    (HERE / "needed.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
