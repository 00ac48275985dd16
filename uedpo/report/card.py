"""README.md of an exported run: a model card for the hub, from what the run directory holds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup
from omegaconf import DictConfig

from uedpo.report.tables import cell, settings
from uedpo.report.templates import TEMPLATES
from uedpo.results.keys import method_name, trial_config
from uedpo.results.metrics import SPLITS, number, title
from uedpo.runtime.atomic import replace
from uedpo.runtime.redact import redact

CITATION = """@inproceedings{uedpo2026,
  title = {Uncertainty-Aware Exploratory Direct Preference Optimization for Multimodal Large Language Models},
  author = {Zhang and Mao and Zhang and Zhang},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year = {2026},
  note = {arXiv:2605.04874}
}"""
VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what --max-lora-rank takes
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_FILES = (".json", ".jsonl", ".parquet", ".gz")
# folders from the root or a home on, up to a last part that stays
_FOLDERS = re.compile(r"(?<![\w.:/\\-])(?:file://)?(?:~[\w.-]*|[A-Za-z]:)?[/\\](?:[^\s/\\\"'`<>|]+[/\\])+")
_ABSOLUTE = re.compile(r"(?:file:|~|/|\\|[A-Za-z]:[/\\])")


def write_card(
    folder: Path,
    kind: str,
    cfg: DictConfig,
    metrics: Mapping[str, Any],
    environment: Mapping[str, Any],
    adapter: Mapping[str, Any],
    parity: Any = None,
) -> None:
    """Write `folder`/README.md.

    Args:
        kind: "adapter", "merged" or "model".
        cfg: of the run, resolved.
        metrics, environment: what metrics.json and environment.json hold.
        adapter: what adapter_config.json holds; empty for a model.
        parity: `uedpo.export.Parity` of merged weights.
    """
    config = trial_config(cfg)
    model, method = config["model"], method_name(config)
    local = bool(environment.get("model_sha256"))
    base, revision = last_part(str(model["path"])), model.get("revision")
    base_name = "BASE" if local else base
    arguments = f'"{base_name}"' + (f', revision="{revision}"' if revision else "")
    served = re.sub(r"[^a-z0-9]+", "-", method.lower()).strip("-")
    text = TEMPLATES.get_template("card.md.j2").render(
        # Markup: YAML and code, which Markdown shows as they are, and what `cell` has escaped
        front=Markup(yaml.safe_dump(front_matter(kind, config, method, served, local), sort_keys=False)),
        title=Markup(cell(f"{base.rsplit('/', 1)[-1]}, {method}")),
        summary=_summary(kind, base, method),
        facts={k: Markup(cell(str(v))) for k, v in _facts(config, environment, adapter).items()},
        kind=kind, local_base=local, base_name=base_name, base_arguments=Markup(arguments), revision=revision,
        dtype=model["dtype"], served=served, saved_modules=", ".join(adapter.get("modules_to_save") or []),
        vllm_rank=next((r for r in VLLM_RANKS if r >= adapter.get("r", 0)), VLLM_RANKS[-1]),
        results=results(metrics), parity=Markup(_parity(parity)), citation=Markup(CITATION),
        config=Markup(yaml.safe_dump(_without_folders(config), sort_keys=False, allow_unicode=True)),
    )  # fmt: skip
    text = _FOLDERS.sub("", redact(text))
    replace(folder / "README.md", lambda file: file.write(text.encode("utf-8", "replace")))


def front_matter(
    kind: str, config: Mapping[str, Any], method: str, served: str, local_base: bool
) -> dict[str, Any]:
    """What the hub reads; a base model or data set that is a file of some machine is left out, and so is
    the licence, which is for whoever publishes to say."""
    known: dict[str, Any] = {
        "library_name": "peft" if kind == "adapter" else "transformers",
        "pipeline_tag": "image-text-to-text",
        "tags": ["uedpo", "preference-optimization", "dpo", *([served] if served != "dpo" else [])],
    }
    if kind == "adapter":
        known["tags"].append("lora")
    path = str(config["model"]["path"])
    if not local_base and _HUB_ID.fullmatch(path):
        known["base_model"] = path
        known["base_model_relation"] = "adapter" if kind == "adapter" else "finetune"
    data = list(dict.fromkeys(filter(_is_hub_id, _data(config.get("data") or {}))))
    return known | ({"datasets": data} if data else {})


def _data(data: Mapping[str, Any]) -> Iterator[str]:
    """What the data were read from: hub ids, and files without their folders."""
    for node in (data, data.get("train"), data.get("val")):
        for key in ("path", "val_path", "source"):
            value = node.get(key) if isinstance(node, Mapping) else None
            if isinstance(value, str):
                yield last_part(value)


def _is_hub_id(value: str) -> bool:
    return bool(_HUB_ID.fullmatch(value)) and not value.endswith(_FILES) and not Path(value).exists()


def _summary(kind: str, base: str, method: str) -> str:
    what = {
        "adapter": f"A LoRA adapter for `{base}`, trained",
        "merged": f"`{base}` with a LoRA adapter merged into it, which was trained",
        "model": f"`{base}`, its language model trained",
    }[kind]
    return f"{what} with {method} on preference pairs, by uedpo."


def _facts(
    config: Mapping[str, Any], environment: Mapping[str, Any], adapter: Mapping[str, Any]
) -> dict[str, str]:
    """Rows of the card's first table."""
    model, versions = config["model"], environment["versions"]
    rows = environment.get("rows") or {}
    digest = environment.get("model_sha256")
    facts = {
        "base model": f"{last_part(str(model['path']))}, "
        + (f"files' sha256 {digest}" if digest else f"revision {model.get('revision') or 'not pinned'}"),
        "method": method_name(config),
        **{k: v for k, v in settings(_without_folders(config)).items() if k not in ("model", "data")},
        "data": f"{', '.join(dict.fromkeys(_data(config.get('data') or {}))) or 'see the configuration'}; "
        f"{rows.get('train', '?')} for training, {rows.get('val', '?')} for validation; "
        f"sha256 {environment['data_sha256']}",
    }
    if adapter:
        facts["adapter"] = f"LoRA, rank {adapter['r']}, alpha {adapter.get('lora_alpha')}"
    facts["trained with"] = ", ".join(f"{k} {v}" for k, v in versions.items() if v and k != "commit")
    facts["code"] = str(versions.get("commit") or "a release")
    return facts


def results(metrics: Mapping[str, Any]) -> dict[str, list[dict[str, str]]]:
    """Split -> a row for each metric, before and after; empty without an evaluation."""
    after, before = metrics.get("after") or {}, metrics.get("before") or {}
    return {
        cell(SPLITS.get(split, split)): [
            {
                "title": cell(title(f"{split}/{name}")),
                "before": _shown(f"{split}/{name}", before.get(split, {}).get(name)),
                "after": _shown(f"{split}/{name}", entry),
            }
            for name, entry in found.items()
        ]
        for split, found in after.items()
        if isinstance(found, Mapping)
    }


def _shown(name: str, entry: Any) -> str:
    found = entry if isinstance(entry, Mapping) else {"value": entry}
    if found.get("value") is None:
        return "none"
    text = number(name, found["value"])
    if found.get("low") is None or found.get("high") is None:
        return text
    return f"{text} ({number(name, found['low'])} to {number(name, found['high'])})"


def _parity(parity: Any) -> str:
    if parity is None:
        return ""
    return (
        f"on {parity.tokens} response tokens of the run's data the logits are {parity.off:.1e} of their "
        f"standard deviation (root mean square) away from those of adapter and base (allowed: "
        f"{parity.tolerance:g}); the adapter itself moves them by {parity.moved:.1e}"
    )


def last_part(value: str) -> str:
    """A path from the root, a home or a drive as its last part; other texts as they are."""
    if not _ABSOLUTE.match(value):
        return value
    return re.split(r"[/\\]", value.rstrip("/\\"))[-1] or "."


def _without_folders(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {str(k): _without_folders(v) for k, v in node.items()}
    if isinstance(node, list):
        return [_without_folders(v) for v in node]
    return last_part(node) if isinstance(node, str) else node
