"""Is this package right and fast on a GPU? `python experiments/gpu/run.py [--rehearse] [--json PATH]`.

Checks and measures on one GPU, in at most 8 minutes, and asks nothing. Without a GPU, or with --rehearse,
every part runs on the CPU with tiny models: that shows whether the kit runs, and its figures mean nothing.

Each part is a process of its own with a limit in seconds. One that fails, runs out of memory or takes too
long leaves a line with the reason. The JSON is written after each row, so a kill loses nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

BEGIN = time.monotonic()
LIMIT = 465.0  # seconds for all parts, imports and the table included
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1])]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # asking for a GPU must not touch it, or no fork can use it

# every part is forked from this process, which has imported all and has not touched the GPU
import torch  # noqa: E402

import uedpo.module  # noqa: E402, F401
from experiments.gpu.parts import PARTS, Part  # noqa: E402
from experiments.gpu.shapes import import_models  # noqa: E402
from experiments.gpu.steps import one_line  # noqa: E402
from experiments.gpu.table import table  # noqa: E402
from uedpo.runtime.atomic import write_json  # noqa: E402
from uedpo.runtime.quiet import quiet  # noqa: E402


def probe(rehearse: bool) -> Iterator[dict[str, Any]]:
    """A row if this process can use a GPU."""
    yield {"what": f"GPU: {torch.zeros(1, device='cuda').device}"}


def ways(rehearse: bool, log: Path) -> tuple[bool, str]:
    """(whether to rehearse, how parts start): forked, or with imports of their own where forks cannot use
    the GPU; forked on the CPU where nobody can."""
    for method in () if rehearse else ("fork", "spawn"):
        rows = list(rows_of(Part("probe", probe, 40), False, 40, log, method))
        if not any("error" in row for row in rows):
            return False, method
    return True, "fork"


def rows_of(part: Part, rehearse: bool, seconds: float, log: Path, method: str) -> Iterator[dict[str, Any]]:
    """The rows of a part as they come, and a last one with the reason if it does not end well.

    Args:
        method: "fork" or "spawn", of `multiprocessing`.
    """
    context: Any = multiprocessing.get_context(method)
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=_work, args=(part.rows, rehearse, send, log))
    child.start()
    send.close()  # so that the end of the child is the end of the pipe
    until, problem = time.monotonic() + seconds, ""
    try:
        while receive.poll(max(0.0, until - time.monotonic())):
            yield receive.recv()
    except EOFError:
        child.join(5)
        if child.exitcode:
            problem = f"ended with {_ending(child.exitcode)}"
    else:
        problem = f"stopped after {seconds:.0f} s"
    finally:
        _kill(child)
    if problem:
        yield {"what": "the rest", "error": problem}


def _work(rows: Callable[[bool], Iterator[dict[str, Any]]], rehearse: bool, send: Any, log: Path) -> None:
    """In the child: send each row; what is printed goes to the log."""
    os.setpgid(0, 0)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout = sys.stderr = os.fdopen(file, "w", buffering=1)
    quiet()
    if rehearse:
        torch.set_num_threads(1)
    try:
        for row in rows(rehearse):
            send.send(row)
    except BaseException as error:
        traceback.print_exc()
        send.send({"what": "the rest", "error": one_line(error)})
    send.close()
    os._exit(0)  # tearing a process with a GPU down takes seconds


def _kill(child: Any) -> None:
    """The child and what it started."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        child.kill()
    child.join()


def _ending(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def measure(chosen: list[Part], rehearse: bool, path: Path, begin: float | None = None) -> dict[str, Any]:
    """Run the parts; `path` always holds all rows that there are. `begin`: when the time began, if before."""
    begin = time.monotonic() if begin is None else begin
    log = path.with_suffix(".log")
    log.unlink(missing_ok=True)
    rehearse, method = ways(rehearse, log)
    found: dict[str, Any] = {"rehearsal": rehearse, "seconds": 0.0, "rows": []}
    for part in chosen:
        left = LIMIT - (time.monotonic() - begin)
        rows = rows_of(part, rehearse, min(part.seconds, left), log, method)
        for row in rows if left > 1 else [{"what": "all", "error": "no time was left"}]:
            found["rows"].append({"part": part.name} | row)
            found["seconds"] = round(time.monotonic() - begin, 1)
            write_json(path, found)
            print(f"{found['seconds']:5.0f} s  {part.name}: {row['what']}{_problem(row)}", flush=True)
    return found


def _problem(row: dict[str, Any]) -> str:
    return f": {row['error']}" if "error" in row else ""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rehearse", action="store_true", help="tiny models on the CPU, even where there is a GPU"
    )
    parser.add_argument("--json", type=Path, default=None, help="default: build/gpu/results.json")
    parser.add_argument(
        "--only", action="append", choices=[p.name for p in PARTS], help="a part; may be repeated"
    )
    options = parser.parse_args()
    path = options.json or HERE.parents[1] / "build/gpu/results.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(Exception):  # once for all parts; the one that needs it says why it cannot
        import trl  # noqa: F401
    quiet()
    import_models()
    chosen = [p for p in PARTS if p.name == "machine" or not options.only or p.name in options.only]
    found = measure(chosen, options.rehearse, path, BEGIN)
    print(table(found))
    print(f"\nwritten: {path}, and what the parts printed: {path.with_suffix('.log')}")


if __name__ == "__main__":
    main()
