"""Stage 3, score: answers (and the judge's replies) to a report, from files alone.

`python -m uedpo.evaluation.score benchmark=NAME answers=PATH assets=DIR output=PATH.json`; see
docs/evaluation.md. Exit code 0: all metrics; 1: metrics are null, and the report says why; 2: bad input.
"""

from __future__ import annotations

import difflib
import gc
import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import uedpo
from uedpo.errors import ConfigError, InputError, local_path, os_line
from uedpo.evaluation.official.answers import read_answers
from uedpo.evaluation.official.benchmarks import BENCHMARKS, SCRIPTS
from uedpo.evaluation.official.coverage import Incomplete, Run
from uedpo.evaluation.official.outcome import MissingAsset, Mode, Scored, Undefined
from uedpo.evaluation.official.reading import Sources
from uedpo.runtime.atomic import replace
from uedpo.runtime.say import say
from uedpo.runtime.small_json import read_object

# recording -> benchmarks that read it
RECORDINGS = {
    "judge_replies": ("object_halbench", "mmhal"),
    "similarity": ("amber_generative",),
    "tagger": ("object_halbench",),
    "singularize": ("chair",),
}
CHOICES = {
    "benchmark": tuple(BENCHMARKS),
    "mode": ("official", "strict"),
    "allow_partial": ("true", "false"),
}
REQUIRED = ("benchmark", "answers", "assets", "output")
KEYS = (*REQUIRED, "mode", "allow_partial", *RECORDINGS)


@dataclass
class Settings:
    benchmark: str
    answers: Path
    assets: Path
    output: Path
    mode: Mode = "official"
    allow_partial: bool = False
    recordings: dict[str, Path] = field(default_factory=dict)


def parse_settings(arguments: Sequence[str]) -> Settings:
    """Settings of key=value arguments.

    Raises:
        ConfigError: naming all problems, with the nearest key or value.
    """
    problems: list[str] = []
    given: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            problems.append(f"{argument}: must be KEY=VALUE")
        elif key not in KEYS:
            problems.append(f"{key}: unknown key; {_nearest(key, KEYS)}")
        elif key in given:
            problems.append(f"{key}: given twice")
        else:
            given[key] = value
    given = {k: v for k, v in given.items() if v != "null" or k in REQUIRED}
    problems += [f"{key}: missing; set it with {key}=VALUE" for key in REQUIRED if not given.get(key)]
    for key, allowed in CHOICES.items():
        if given.get(key) and given[key].lower() not in allowed:
            problems.append(f"{key}={given[key]}: {_nearest(given[key], allowed)}")
    given |= {key: given[key].lower() for key in CHOICES if key in given}
    problems += _path_problems(given)
    if problems:
        count = f"{len(problems)} problem{'s' * (len(problems) > 1)} in the arguments"
        raise ConfigError("\n  ".join([f"{count}:", *problems]))
    return Settings(
        given["benchmark"],
        local_path(given["answers"]),
        local_path(given["assets"]),
        local_path(given["output"]),
        mode=cast(Mode, given.get("mode", "official")),
        allow_partial=given.get("allow_partial", "false") == "true",
        recordings={key: local_path(given[key]) for key in RECORDINGS if key in given},
    )


def _nearest(given: str, allowed: Sequence[str]) -> str:
    close = difflib.get_close_matches(given, allowed, 1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"allowed: {', '.join(allowed)}"


def _path_problems(given: dict[str, str]) -> list[str]:
    problems = []
    for key in ("answers", *RECORDINGS):
        if given.get(key) and not local_path(given[key]).is_file():
            problems.append(f"{key}={given[key]}: no such file")
    if given.get("assets"):
        path = local_path(given["assets"])
        if given.get("benchmark") == "pope" and not path.is_file():
            problems.append(f"assets={path}: no such file; for pope it is the label file itself")
        elif given.get("benchmark") != "pope" and not path.is_dir():
            problems.append(f"assets={path}: no such folder")
    if given.get("output"):
        path = local_path(given["output"])
        if path.is_dir():
            problems.append(f"output={path}: is a folder; name a file")
        elif path.is_file() and not _is_report(path) and given["output"] not in _read(given):
            problems.append(f"output={path}: is there, and is no report of scores; name a new file")
    return problems


def _read(given: dict[str, str]) -> list[str]:
    """What is read, of which `make_report` says so."""
    return [value for key, value in given.items() if key in ("answers", "assets", *RECORDINGS)]


def _is_report(path: Path) -> bool:
    try:
        return {"benchmark", "metrics"} <= read_object(path).keys()
    except InputError:
        return False


def make_report(settings: Settings) -> dict[str, Any]:
    """Score, and say in one dict what was scored, with what, and what is missing.

    Raises:
        InputError: a file that cannot be understood, or `output` is one that was read.
    """
    scorer, names = BENCHMARKS[settings.benchmark]
    inputs = Sources()
    answers = read_answers(inputs.read(settings.answers), str(settings.answers), settings.benchmark)
    run = Run(answers, settings.assets, settings.recordings, settings.mode, settings.allow_partial, inputs)
    for option in settings.recordings:
        if settings.benchmark not in RECORDINGS[option]:
            run.warnings.append(f"{option} is not used by {settings.benchmark}")
    scored = Scored(dict.fromkeys(names), {})
    try:
        scored = scorer(run)
    except Incomplete:
        pass
    except (Undefined, MissingAsset) as error:
        run.reasons.append(str(error))
        run.counts["scored"] = 0
    if settings.output.resolve() in run.sources.paths | inputs.paths:
        raise InputError(f"output={settings.output}: is a file that was read; name another")
    own = {"uedpo": uedpo.__version__, "python": platform.python_version()}
    own["official_script"] = SCRIPTS[settings.benchmark]
    return {
        "benchmark": settings.benchmark,
        "mode": settings.mode,
        "partial": run.partial,
        "answered": None if answers.header is None else dict(answers.header),
        "metrics": scored.metrics,
        "baselines": scored.baselines,
        "printed": scored.printed,
        "counts": run.counts | scored.counts,
        "reasons": run.reasons,
        "warnings": run.warnings + scored.warnings,
        "versions": own | run.versions,
        "assets": run.sources.sha256,
        "inputs": run.inputs.sha256,
    }


def write(report: dict[str, Any], output: Path) -> None:
    """All of the report or nothing.

    Raises:
        InputError: the file cannot be written.
    """
    text = json.dumps(report, indent=2) + "\n"
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"output={output}: cannot be written ({error.strerror})") from None
    replace(output, lambda file: file.write(text.encode()))


def main(arguments: Sequence[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    if not given or {"-h", "--help"} & set(given):
        say(f"{__doc__}\nKeys: {', '.join(KEYS)}\nbenchmark: {', '.join(BENCHMARKS)}")
        return 0 if given else 2
    try:
        settings = parse_settings(given)
        report = make_report(settings)
        write(report, settings.output)
    except (ConfigError, InputError) as error:
        say(error, file=sys.stderr)
        return 2
    except OSError as error:  # such as a path that is too long to ask for
        say(os_line(error), file=sys.stderr)
        return 2
    say(_summary(report))
    if report["reasons"]:
        say(f"{settings.benchmark}: no score: {' | '.join(report['reasons'])}", file=sys.stderr)
        return 1
    for warning in report["warnings"]:
        say(f"warning: {warning}", file=sys.stderr)
    return 0


def _summary(report: dict[str, Any]) -> str:
    subset = "\t(a subset)" if report["partial"] else ""
    lines = [f"{k}\t{'null' if v is None else v}{subset}" for k, v in report["metrics"].items()]
    for name, metrics in report["baselines"].items():
        lines.append(f"{name}\t" + ", ".join(f"{k} {v}" for k, v in metrics.items() if "/" not in k))
    return "\n".join(lines)


if __name__ == "__main__":
    # COCO's files are millions of objects that live on; looking for garbage among them takes a third longer
    gc.disable()
    sys.exit(main())
