"""What the probe sees of one pair: `python -m uedpo.explain [image=FILE prompt=... chosen=... rejected=...]`.

Prints the tokens coloured by u, Delta and lambda, and writes a page. Without a pair of your own: one of
the micro-world. Other keys are those of `uedpo.run`: model=..., weights.alpha=..., corruption=..., seed=...
  adapter=RUN/adapter  the trained model too
  output=FILE          where the page goes; default: outputs/explain.html
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from uedpo.config.command_line import answer, compose, split
from uedpo.errors import ConfigError, InputError, local_path, stop_on
from uedpo.runtime.folders import make, output_file
from uedpo.runtime.hub import check_present

PAIR = ("image", "prompt", "chosen", "rejected")
OWN = (*PAIR, "adapter", "output")


def main() -> int:
    """Exit code 0, or 2 with one line for what cannot be used."""
    return answer(__doc__, _explained)


def _explained(arguments: list[str]) -> str:
    own, overrides = split(arguments, OWN)
    paths = [key for key in own if key not in PAIR[1:]]  # texts are judged as those of a row
    stop_on([f"{key}: is empty; give a value, or leave it out" for key in paths if not own[key].strip()])
    given = [key for key in PAIR if key in own]
    if given and len(given) < len(PAIR):
        missing = ", ".join(key for key in PAIR if key not in own)
        raise ConfigError(
            f"{missing}: missing; a pair is image=, prompt=, chosen= and rejected=, or none of them"
        )
    return f"open {explain(own, composed(overrides), overrides)}"


def composed(overrides: list[str]) -> DictConfig:
    """The configuration, checked as that of a run.

    Raises:
        ConfigError: naming all problems.
    """
    cfg = compose(overrides)
    if not str(cfg.weights.get("_target_")).endswith("UncertaintyProbe"):
        stop_on([f"weights={cfg.weights.get('_target_')}: makes no signals to show; use weights=uncertainty"])
    return cfg


def explain(own: dict[str, str], cfg: DictConfig, overrides: Sequence[str]) -> Path:
    """Trace the pair, print it, and write the page.

    Raises:
        InputError: a picture, a text, a model or an adapter that cannot be used.
    """
    check_present(cfg.model.get("path"), cfg.model.get("revision"))
    import torch

    from uedpo.config.build import build_weigher
    from uedpo.report.page import write_page
    from uedpo.report.record import truth_of
    from uedpo.report.terminal import show
    from uedpo.report.trace import trace_pairs
    from uedpo.runtime.quiet import quiet

    quiet()
    output = local_path(own.get("output", "outputs/explain.html"))
    output_file(output, "output", ".html")
    if "output" in own and not output.parent.is_dir():
        raise InputError(f"output={output}: no such folder as {output.parent}; make it, or name another")
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    source = instantiate(cfg.model)
    processor = source.processor()
    source.check(processor, source.config())
    pairs: Any = [own_pair(own, processor)] if "image" in own else shipped_pairs()
    adapter = local_path(own["adapter"]) if "adapter" in own else None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    probe = build_weigher(cfg, instantiate(cfg.corruption, seed=cfg.seed))
    scores = load_scores(source, cfg, adapter, device)
    (trace,) = trace_pairs(scores, processor, [pairs[0]], probe, device, truth_of(pairs, processor))
    show(trace, "before", "base model")
    if adapter is not None:
        show(trace, "after", "trained model")
    make(output.parent)
    return write_page(output, page_of(trace, own, cfg, overrides))


def own_pair(own: dict[str, str], processor: Any) -> Any:
    """The pair of the command line, checked as a row of a file is.

    Raises:
        InputError: the first thing that is wrong with it.
    """
    from uedpo.data.fields import check_row
    from uedpo.data.images import load_image
    from uedpo.data.rejects import Ledger, RowProblem
    from uedpo.data.texts import TextRules
    from uedpo.types import PreferencePair

    if "://" in own["image"]:
        raise InputError(
            f"image={own['image'][:200]}: is an address; nothing is fetched, store the file first"
        )
    path = local_path(own["image"])
    if not path.exists():
        raise InputError(f"image={str(path)[:200]!r}: no such file; give the path of a picture")
    try:
        fields = check_row({key: own[key] for key in PAIR})
        image = load_image(path.resolve())
        pair = PreferencePair(path.name, image, fields.prompt, fields.chosen, fields.rejected)
        TextRules(processor, 10_000, False, Ledger("command line"))(pair)
    except RowProblem as problem:
        raise InputError(str(problem)) from None
    return pair


def shipped_pairs() -> Any:
    """The shipped validation pairs, of which the first is shown."""
    from uedpo.microworld.data import MicroWorldPairs

    return MicroWorldPairs("val", 1)


def load_scores(source: Any, cfg: DictConfig, adapter: Path | None, device: str) -> dict[str, Any]:
    """when -> what scores a batch: the base model, and with an adapter the trained one."""
    from uedpo.model.adapter import attach_adapter
    from uedpo.scoring import Scorer

    scorer = Scorer(cfg.scoring)
    scorer.check(source.config(), source.attn_implementation)
    model = source.base()
    if adapter is not None:
        model = attach_adapter(model, adapter)
    model = model.to(device).eval()
    scorer.attach(model)

    def after(batch: Any, pixels: Any = None) -> Any:
        return scorer.score(model, batch, pixels)

    def before(batch: Any, pixels: Any = None) -> Any:
        with model.disable_adapter():
            return scorer.score(model, batch, pixels)

    return {"before": after} if adapter is None else {"before": before, "after": after}


def page_of(trace: dict[str, Any], own: dict[str, str], cfg: DictConfig, overrides: Sequence[str]) -> str:
    """The page of one pair."""
    import shlex

    from omegaconf import OmegaConf

    from uedpo.report import tables
    from uedpo.report.page import render, token_section
    from uedpo.runtime.versions import versions

    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    rows = tables.settings(plain)
    shown = {key: rows[key] for key in ("model", "token weights", "corruption")}
    if "adapter" in own:
        shown["adapter"] = own["adapter"]
    packages = ", ".join(f"{k} {v}" for k, v in versions().items() if v and k != "commit")
    arguments = [f"{key}={value}" for key, value in own.items()] + list(overrides)
    return render(
        {
            "title": trace["id"],
            "kind": "pair",
            "summary": f"What the probe of UE-DPO sees of one preference pair, token by token, with "
            f"{plain['model']['path']}: where the model guesses (u), what it sees (Δ), and how training "
            "would weigh each token (λ).",
            "settings": shown | {"seed": str(cfg.seed)},
            "results": {},
            "curves": [],
            "fans": [],
            **token_section([trace]),
            "classes": {},
            "class_pairs": 0,
            "environment": {"versions": packages},
            "packages": "",
            "config": " ".join(["python -m uedpo.explain", *map(shlex.quote, arguments)]),
        }
    )


if __name__ == "__main__":
    sys.exit(main())
