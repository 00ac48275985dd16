"""A judge's replies to answers: `python -m uedpo.evaluation.judge benchmark=mmhal answers=answers.jsonl ...`.

Writes replies.jsonl: a header of settings, then one line an attempt, failures too. Run the same command
again to go on. Exit code 0 when each answer has a reply that the official script can read, 1 when not.
"""

from __future__ import annotations

import hashlib
import random
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from uedpo.errors import InputError, local_path
from uedpo.evaluation.append_file import REPLIES, AppendFile, digest
from uedpo.evaluation.endpoint import OK, WRONG_MODEL, Endpoint, Outcome
from uedpo.evaluation.judge_tasks import SETTINGS, Judged, Task, is_readable, request, tasks
from uedpo.evaluation.options import command
from uedpo.evaluation.replies import judged, recorded
from uedpo.runtime.progress import late_bar
from uedpo.types import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

UNREADABLE = "unreadable"
_LONGEST_WAIT = 120.0  # seconds between two attempts
_CHARACTERS_PER_TOKEN = 4
_PATIENCE = 5  # replies of another model and none of the right one, at least, before giving up
_WRONG_KEY, _ANOTHER_TIME = (401, 403, 404), (408, 409, 425, 429)

Ask = Callable[[Task], Iterator[Outcome]]  # attempts, each made when it is asked for


def judge_answers(
    benchmark: Judged,
    answers: str,
    output: str,
    judge: str,
    template: str | None = None,
    assets: str | None = None,
    base_url: str | None = None,
    replay: str | None = None,
    concurrency: PositiveInt = 4,
    max_retries: NonNegativeInt = 8,
    timeout: PositiveFloat = 120.0,
    backoff: PositiveFloat = 2.0,
    price_in: NonNegativeFloat | None = None,
    price_out: NonNegativeFloat | None = None,
    yes: bool = False,
) -> int:
    """Judge all answers that `output` has no readable reply to; the exit code.

    Args:
        judge: name and version of the model, which each response must carry.
        template: file with the benchmark's judge prompt, `{}` where the official script fills it in; a
            replay needs none.
        base_url: endpoint up to and without "/chat/completions".
        replay: JSONL of recorded replies {"index", "reply"} in the place of an endpoint.
        timeout: seconds; backoff: seconds before the first retry, doubled for each further one.
        price_in, price_out: of a million tokens, for the estimate.
        yes: do not ask before the first call.

    Raises:
        InputError: before the first call.
    """
    _check_places(base_url, replay, template)
    path, source = local_path(output), local_path(answers)
    folder, form = (None if name is None else local_path(name) for name in (assets, template))
    asked, template_sha256 = tasks(benchmark, source, folder, form)
    header = _header(benchmark, judge, template_sha256, source, asked) | {"replayed": replay is not None}
    endpoint = None if base_url is None else Endpoint(base_url, judge, timeout)
    known = {} if replay is None else recorded(local_path(replay), judge)
    stop = threading.Event()
    with AppendFile(path, header) as file:
        done, attempts = judged(path, file.rows, asked)

        def ask(task: Task) -> Iterator[Outcome]:
            if endpoint is None:
                return iter(known.get(task.row, [])[attempts[task.row] :])
            return _attempts(endpoint, benchmark, task, max_retries, backoff, stop)

        rest = [task for task in asked if task.row not in done]
        if rest and endpoint is not None:
            _confirm(estimate(benchmark, rest, price_in, price_out), yes)
        run = _Run(benchmark, file, ask, stop, attempts, bool(done), max_retries)
        run.all(rest, concurrency)
    covered = len(done) + run.statuses[OK]
    print(f"{covered}/{len(asked)} answers judged by {judge} in {path}")
    run.tell_failures()
    return 0 if covered == len(asked) else 1


def _check_places(base_url: str | None, replay: str | None, template: str | None) -> None:
    if (base_url is None) == (replay is None):
        raise InputError("base_url, replay: set one, an endpoint or a file of recorded replies")
    if base_url is not None and template is None:
        raise InputError("template: missing; set the file with the benchmark's judge prompt")


def _header(
    benchmark: Judged, judge: str, template_sha256: str | None, answers: Path, asked: Sequence[Task]
) -> dict[str, Any]:
    return {
        REPLIES: 1,
        "benchmark": benchmark,
        "judge": judge,
        "settings": SETTINGS[benchmark],
        "template_sha256": template_sha256,
        "answers_sha256": hashlib.sha256(answers.read_bytes()).hexdigest(),
        "prompts_sha256": digest(asked),
        "num": len(asked),
    }


class _Run:
    """The attempts of one process, written as they come."""

    def __init__(
        self,
        benchmark: Judged,
        file: AppendFile,
        ask: Ask,
        stop: threading.Event,
        attempts: Counter[int],
        proven: bool,
        max_retries: int,
    ) -> None:
        self.benchmark, self.file, self.ask, self.stop = benchmark, file, ask, stop
        self.attempts, self.proven, self.patience = attempts, proven, max(max_retries + 1, _PATIENCE)
        self.statuses: Counter[str] = Counter()
        self.fatal = ""
        self._guard = threading.Lock()

    def tell_failures(self) -> None:
        failures = {k: v for k, v in sorted(self.statuses.items()) if k != OK}
        if failures:
            print("failed attempts: " + ", ".join(f"{v} {k}" for k, v in failures.items()))
        if self.fatal:
            print(self.fatal, file=sys.stderr)

    def all(self, rest: Sequence[Task], concurrency: int) -> None:
        with ThreadPoolExecutor(concurrency) as pool, late_bar("answers judged", len(rest)) as advance:
            try:
                for future in [pool.submit(self.one, task) for task in rest]:
                    future.result()
                    advance()
            except BaseException:
                self.stop.set()
                pool.shutdown(cancel_futures=True)
                raise

    def one(self, task: Task) -> None:
        """Ask until a reply is readable, or attempts end."""
        if self.stop.is_set():
            return
        for outcome in self.ask(task):
            status = outcome.status
            if status == OK and not is_readable(self.benchmark, outcome.reply or ""):
                status = UNREADABLE
            self.write(task, outcome, status)
            if status == OK or self.stop.is_set():
                return

    def write(self, task: Task, outcome: Outcome, status: str) -> None:
        """One line; a reply that must not count has its text under `raw`."""
        reply, raw = (outcome.reply, outcome.raw) if status == OK else (None, outcome.raw or outcome.reply)
        with self._guard:
            self.attempts[task.row] += 1
            self.statuses[status] += 1
            row = {"index": task.row, "reply": reply, "model": outcome.model, "status": status}
            row |= {"attempt": self.attempts[task.row]}
            self.file.append(row if raw is None else {**row, "raw": raw})
            self._give_up(outcome, status)

    def _give_up(self, outcome: Outcome, status: str) -> None:
        """Stop the whole run where no further call can succeed."""
        self.proven = self.proven or status == OK
        if status in {f"http {code}" for code in _WRONG_KEY}:
            self.fatal = f"stopped: {status} from the endpoint; check base_url, judge and the key"
        elif not self.proven and self.statuses[WRONG_MODEL] >= self.patience:
            self.fatal = f"stopped: the endpoint answers as {outcome.model}; set judge={outcome.model}"
        if self.fatal:
            self.stop.set()


def _attempts(
    endpoint: Endpoint, benchmark: Judged, task: Task, retries: int, backoff: float, stop: threading.Event
) -> Iterator[Outcome]:
    """A call and its retries, with exponential back-off, jitter and the server's own wish between them."""
    for attempt in range(retries + 1):
        outcome = endpoint.ask(request(benchmark, task))
        yield outcome
        code = int(outcome.status.removeprefix("http ")) if outcome.status.startswith("http ") else 0
        if attempt == retries or (300 <= code < 500 and code not in _ANOTHER_TIME):
            return
        wait = max(backoff * 2**attempt * random.uniform(0.5, 1.5), outcome.retry_after)
        if stop.wait(min(wait, _LONGEST_WAIT)):
            return


def estimate(benchmark: Judged, rest: Sequence[Task], price_in: float | None, price_out: float | None) -> str:
    """What the calls may cost without retries, in one line."""
    tokens = sum(-(-len(task.prompt) // _CHARACTERS_PER_TOKEN) for task in rest)
    most = len(rest) * SETTINGS[benchmark]["max_tokens"]
    text = (
        f"{len(rest)} calls, about {tokens} tokens in (a token for {_CHARACTERS_PER_TOKEN} characters), "
        f"at most {most} out"
    )
    if price_in is None or price_out is None:
        return text + "; price unknown: set price_in and price_out, of a million tokens"
    return text + f"; at most about {(tokens * price_in + most * price_out) / 1e6:.2f}"


def _confirm(text: str, yes: bool) -> None:
    if yes:
        print(text, flush=True)
    elif not sys.stdin.isatty():
        raise InputError(f"{text}; add yes=true to go on")
    elif input(f"{text}. Go on? [y/N] ").strip().lower() != "y":
        raise InputError("nothing was asked")


if __name__ == "__main__":
    command(judge_answers)
