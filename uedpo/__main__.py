"""`uedpo COMMAND`, the same as `python -m uedpo.COMMAND`: hears signals before anything heavy is imported."""

from __future__ import annotations

import difflib
import runpy
import sys

from uedpo.runtime import preemption
from uedpo.runtime.say import say

# command -> (module that is run, what it answers)
COMMANDS = {
    "run": ("uedpo.run", "train and evaluate; with -m or an experiment, a sweep"),
    "check": ("uedpo.check", "look at the data: lengths, cuts, rejected rows"),
    "plan": ("uedpo.plan", "does it fit, and how long will it take?"),
    "explain": ("uedpo.explain", "u, Delta and lambda of one pair, as a page"),
    "report": ("uedpo.report", "build report.html again from the files of a run"),
    "compare": ("uedpo.compare", "which of these runs is better, and how sure is that?"),
    "export": ("uedpo.export", "the adapter, or merged weights, with a model card"),
    "dashboard": ("uedpo.dashboard", "a W&B workspace for a project"),
    "generate": ("uedpo.evaluation.generate", "answers of a model to a benchmark's questions"),
    "judge": ("uedpo.evaluation.judge", "what a language model says of answers"),
    "score": ("uedpo.evaluation.score", "a benchmark's metrics from answers and judgements"),
    "merge": ("uedpo.evaluation.merge", "one file of answers from those of several processes"),
    "table": ("uedpo.evaluation.table", "a table of several models' scores"),
    "list": ("uedpo.cli.list", "methods, models, data, corruptions, experiments, devices, with their keys"),
    "doctor": ("uedpo.cli.doctor", "versions, devices, packages, hub, disk: what is amiss on this machine?"),
    "completion": ("uedpo.cli.completion", "a script that lets the shell complete commands, groups and keys"),
}


def usage() -> str:
    """One line for each command."""
    lines = "\n".join(f"  {name:12}{text}" for name, (_, text) in COMMANDS.items())
    return (
        f"usage: uedpo COMMAND [key=value ...]\n\n{lines}\n\nuedpo COMMAND --help says what a command takes."
    )


def main() -> None:
    """Run the command that the command line names; exit code 2 for one that there is not."""
    preemption.install()
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        say(usage())
        sys.exit(0)
    if name == "--version":
        from uedpo import __version__

        say(f"uedpo {__version__}")
        sys.exit(0)
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean {close[0]}?" if close else f"one of {', '.join(COMMANDS)}"
        if "=" in name or name.startswith("+") or name == "-m":
            hint = f"write uedpo run {' '.join(sys.argv[1:])[:200]}"
        say(f"{name[:100]}: no such command; {hint}", file=sys.stderr)
        sys.exit(2)
    module, _ = COMMANDS[name]
    sys.argv = [f"python -m {module}", *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
