"""Weights & Biases: where runs go, how metrics are summed up, and what is logged when a run ends.

Metrics have stable prefixes: train/ val/ weights/ signals/ eval/ perf/ (docs/tracking.md).
"""

from __future__ import annotations

import base64
import io
import os
import re
import secrets
import shlex
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from markupsafe import Markup
from PIL import Image
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from uedpo.errors import InputError
from uedpo.logger import STEP
from uedpo.logger.offline import parts, written
from uedpo.runtime.say import say

# metric -> what W&B keeps of its curve as the run's summary; else the last value
SUMMARIES = {
    "train/loss": "min", "train/accuracy": "max", "val/loss": "min", "val/accuracy": "max",
    "perf/pairs_per_second": "mean", "perf/data_wait": "mean",
}  # fmt: skip
PREFIXES = ("train", "val", "weights", "signals", "eval", "perf")
# overrides of the command line that become tags
TAGGED = ("experiment", "method", "tuned", "model", "data", "loss", "weights", "corruption", "seed")
COLORS = {"chosen": "230, 120, 0", "rejected": "0, 114, 178"}


class WandbRun(WandbLogger):
    """Lightning's logger of one W&B run, which a resumed run directory continues.

    Args:
        save_dir: the run directory; W&B's files lie in `save_dir`/wandb.
        mode: "online" insists on a server; "offline" writes files for `wandb sync`; "auto" is online where
            there is a key and the server answers within five seconds, else offline, and says so.
        group: default: the sweep's directory, for trials of a sweep.
        tags: beside the overrides of the command line that choose method, model, data, seed and the like.

    Raises:
        InputError: mode is "online", and there is no key or no server.
    """

    def __init__(
        self,
        save_dir: str,
        project: str = "uedpo",
        entity: str | None = None,
        name: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        mode: Literal["auto", "online", "offline"] = "auto",
    ) -> None:
        _check_settings(project=project, entity=entity, run_name=name, run_group=group)
        offline = mode == "offline"
        reason = None if offline else unreachable()
        if reason and mode == "online":
            raise InputError(f"logger.wandb.mode=online: {reason}; mode=offline keeps everything on disk")
        if reason:
            say(f"W&B is offline: {reason}")
        if os.environ.get("WANDB_DATA_DIR", str(_staging)) == str(_staging):  # else the user's own choice
            _keep_media_in(Path(save_dir) / "wandb")
        super().__init__(
            name=name,
            save_dir=save_dir,
            offline=offline or reason is not None,
            mode="offline" if offline or reason else "online",  # Lightning's way, a variable, comes too late
            id=_run_id(Path(save_dir)),
            project=project,
            entity=entity,
            group=group or _sweep(),
            tags=[*tags, *_chosen()],
            resume="allow",
            settings={"silent": True},  # its summary of a run is longer than the run's own output
        )
        self._wandb_init.pop("anonymous", None)  # Lightning passes it, W&B warns of it
        self._written: set[tuple[int, str]] = set()

    def catch_up(self, rows: Sequence[Mapping[str, str]]) -> None:
        """Continue a run that has offline parts: log what they lack, and from now on no more than that.

        Args:
            rows: of metrics.csv, up to the checkpoint that the run continues from.
        """
        folder = Path(self.save_dir or ".")
        if not parts(folder):
            return
        self._written = written(folder)
        for row in rows:
            self.log_metrics({k: float(v) for k, v in row.items() if v and k != "step"}, int(row["step"]))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        left = {name: v for name, v in metrics.items() if (step, name) not in self._written}
        if left.keys() - {"epoch"} or not metrics:
            super().log_metrics(left, step)

    @property
    def experiment(self) -> Any:
        new = self._experiment is None
        run = super().experiment
        if new and hasattr(run, "define_metric"):
            for prefix in PREFIXES:
                run.define_metric(f"{prefix}/*", step_metric=STEP)
            for metric, summary in SUMMARIES.items():
                run.define_metric(metric, step_metric=STEP, summary=summary)
            if self._wandb_init["mode"] == "online":
                say(f"W&B: {run.url}")
        return run


def _check_settings(**given: str | None) -> None:
    """Refuse what W&B would refuse once the run has begun.

    Raises:
        InputError: a name that it does not take.
    """
    import wandb

    settings: Any = wandb.Settings
    try:
        settings(**{key: value for key, value in given.items() if value is not None})
    except Exception as error:  # UsageError, or pydantic's
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise InputError(f"logger.wandb: {' '.join(' '.join(lines).split())[:300]}; name another") from None


def unreachable() -> str | None:
    """Why runs cannot go to the W&B server now; None where they can."""
    import wandb

    if os.environ.get("WANDB_MODE", "online") != "online":
        return f"WANDB_MODE={os.environ['WANDB_MODE']}"
    with redirect_stderr(io.StringIO()):  # 0.31 warns of wandb.api; what it names instead prints and saves
        key = wandb.api.api_key
    if not key:
        return "there is no API key (run `wandb login`, or set WANDB_API_KEY)"
    address = urlsplit(wandb.setup().settings.base_url)
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname, port), timeout=5).close()
    except OSError as error:
        return f"{address.hostname} does not answer ({error})"
    return None


def _run_id(folder: Path) -> str:
    """Of the run directory: a resumed run goes on in the same W&B run."""
    file = folder / "wandb_id"
    if not file.is_file():
        file.write_text(secrets.token_hex(4))
    found = file.read_text()
    if not re.fullmatch(r"[0-9a-f]{8}", found):  # it becomes part of paths and addresses
        raise InputError(f"{file}: not the id of a W&B run, which has 8 hexadecimal digits; remove the file")
    return found


def _sweep() -> str | None:
    hydra = HydraConfig.get() if HydraConfig.initialized() else None
    if hydra is None or hydra.mode != RunMode.MULTIRUN:
        return None
    directory = Path(hydra.sweep.dir)
    return f"{directory.parent.name}/{directory.name}"


def _chosen() -> list[str]:
    """`method=tpo` and the like, of the command line."""
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    plain = [o.lstrip("+") for o in overrides]
    return [o[:64] for o in plain if o.partition("=")[0] in TAGGED]


_staging: Path | None = None


def _keep_media_in(folder: Path) -> None:
    """What a table shows waits for its upload inside the run directory, not in the user's home."""
    global _staging
    _staging = folder
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["WANDB_DATA_DIR"] = str(folder)


def log_start(loggers: Sequence[Logger], config: Mapping[str, Any]) -> None:
    """Tell W&B the configuration, from which secrets were refused before."""
    for logger in loggers:
        if isinstance(logger, WandbRun):
            logger.log_hyperparams(dict(config))


def log_end(
    loggers: Sequence[Logger], before: Mapping[str, Any] | None, after: Mapping[str, Any] | None,
    traces: Sequence[Mapping[str, Any]], step: int,
) -> None:  # fmt: skip
    """Evaluation as eval/SPLIT/METRIC (of the base model: eval/base/...), and W&B's table of samples."""
    values = {**_flat(after, "eval"), **_flat(before, "eval/base")}
    for logger in loggers:
        if isinstance(logger, WandbRun | TensorBoardLogger) and values:
            logger.log_metrics(values, step)
        if isinstance(logger, WandbRun) and traces:
            logger.experiment.log({"eval/samples": samples(traces), STEP: step})


def _flat(metrics: Mapping[str, Any] | None, prefix: str) -> dict[str, float]:
    return {
        f"{prefix}/{split}/{name}": m["value"]
        for split, found in (metrics or {}).items()
        for name, m in found.items()
        if m["value"] is not None
    }


def samples(traces: Sequence[Mapping[str, Any]]) -> Any:
    """wandb.Table of traced pairs (`uedpo.report.trace`): images, coloured tokens, captions."""
    import wandb

    sides = [(side, when) for side in ("chosen", "rejected") for when in ("before", "after")]
    columns = ["id", "prompt", "clear", "corrupted", *(" ".join(s) for s in sides)]
    table = wandb.Table(columns=[*columns, "says before", "says after"])
    for trace in traces:
        pictures = [_picture(trace.get(key)) for key in ("clear_image", "corrupted_image")]
        tokens = [wandb.Html(str(colored(trace[side][when], side)), inject=False) for side, when in sides]
        says = trace.get("says") or {}
        texts = [says.get(when, {}).get("text", "") for when in ("before", "after")]
        table.add_data(trace["id"], trace["prompt"], *pictures, *tokens, *texts)
    return table


def colored(tokens: Sequence[Mapping[str, Any]], side: str) -> Markup:
    """Escaped spans, darker the further a token's weight is from 1, with what was measured as title."""
    furthest = max((abs(t.get("weight", 1.0) - 1) for t in tokens), default=0) or 1
    spans = []
    for token in tokens:
        strength = abs(token.get("weight", 1.0) - 1) / furthest
        style = f"background: rgba({COLORS[side]}, {0.6 * strength:.2f})" if strength else ""
        title = ", ".join(f"{k} {token[k]}" for k in ("logp", "u", "delta", "weight") if k in token)
        spans.append(
            Markup('<span style="{}" title="{}">{}</span>').format(style, title, token["text"] + " ")
        )
    return Markup("<p>{}</p>").format(Markup("").join(spans))


def _picture(url: str | None) -> Any:
    import wandb

    head, _, data = (url or "").partition(",")
    if not (head.startswith("data:image/") and head.endswith(";base64")):
        return None
    return wandb.Image(Image.open(io.BytesIO(base64.b64decode(data))))


@contextmanager
def closing() -> Iterator[None]:
    """End this process's W&B run, if any, when the block does; prints how to upload an offline one."""
    ok = False
    try:
        yield
        ok = True
    finally:
        wandb = sys.modules.get("wandb")
        run = wandb.run if wandb is not None else None
        if wandb is not None and run is not None:
            folder = Path(run.dir).parent
            offline = run.settings.mode != "online"
            wandb.finish(exit_code=0 if ok else 1)
            if offline:
                named = shlex.join(map(str, parts(folder.parents[1]) or [folder]))
                say(f"W&B: this run is on disk; upload it with: wandb sync {named}")
