"""`generate` and `judge` killed with SIGKILL, and run again until they are done."""

import json
import random
import signal
import time

import pytest

from tests.judge_stub import MODEL, Stub
from tests.processes import Command, run
from uedpo.evaluation.append_file import ANSWERS, REPLIES, AppendFile, read
from uedpo.evaluation.generate import answer_benchmark
from uedpo.evaluation.judge import judge_answers
from uedpo.microworld.assets import write_assets
from uedpo.microworld.grammar import PROMPTS

few_and_many = pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])


def run_and_kill(command, path, points):
    """Run `command` again and again; kill it once `path` has grown to each of `points` (bytes)."""
    for point in points:
        process = Command(*command)
        while process.poll() is None and not (path.exists() and path.stat().st_size >= point):
            time.sleep(0.001)
        time.sleep(random.uniform(0, 0.03))
        process.kill()
        assert process.wait() == -signal.SIGKILL, process.stderr[-2000:]
    done = run(*command)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def kill_points(size, kills):
    """Ascending sizes of the file: from its first byte to nine tenths of it."""
    return sorted(random.Random(kills).randint(1, size * 9 // 10) for _ in range(kills))


@few_and_many
@pytest.mark.slow
def test_killed_generate_ends_with_the_same_file(tmp_path, kills):
    write_assets(str(tmp_path), num=20 * (1 + kills // 2))
    options = {
        "benchmark": "chair", "model": "uedpo:micro_llava", "assets": str(tmp_path),
        "images": str(tmp_path / "images"), "prompt": PROMPTS[0], "max_new_tokens": 16, "batch_size": 4,
    }  # fmt: skip
    assert answer_benchmark(**options, output=str(tmp_path / "whole.jsonl")) == 0
    whole = (tmp_path / "whole.jsonl").read_bytes()
    path = tmp_path / "answers.jsonl"
    command = ["uedpo.evaluation.generate", f"output={path}"]
    run_and_kill([*command, *(f"{k}={v}" for k, v in options.items())], path, kill_points(len(whole), kills))
    assert path.read_bytes() == whole
    ids = [row["id"] for _, row in read(path, ANSWERS)[1]]
    assert len(set(ids)) == len(ids) == 20 * (1 + kills // 2)


@few_and_many
def test_killed_judge_ends_with_the_same_replies(tmp_path, kills):
    num = 40 * (1 + kills // 4)
    rows = [
        {"image_content": ["Cat"], "question": f"What is {i}?", "gt_answer": "A dog."} for i in range(num)
    ]
    (tmp_path / "mmhal-bench_answer_template.json").write_text(json.dumps(rows))
    (tmp_path / "judge.txt").write_text("{} {} {} {}")
    header = {ANSWERS: 1, "benchmark": "mmhal", "num": num, "shard": "0/1"}
    with AppendFile(tmp_path / "answers.jsonl", header) as file:
        for i in range(num):
            file.append({"id": i, "answer": f"It is {i}"})
    options = {
        "benchmark": "mmhal", "answers": str(tmp_path / "answers.jsonl"), "assets": str(tmp_path),
        "judge": MODEL, "template": str(tmp_path / "judge.txt"), "yes": True, "backoff": 0.01,
    }  # fmt: skip
    with Stub() as stub:
        assert judge_answers(**options, output=str(tmp_path / "whole.jsonl"), base_url=stub.url) == 0
    path = tmp_path / "replies.jsonl"
    size = (tmp_path / "whole.jsonl").stat().st_size
    with Stub(faulty=0.2, pause=0.0, delay=0.02) as stub:
        command = ["uedpo.evaluation.judge", f"output={path}", f"base_url={stub.url}"]
        command += [f"{k}={v}" for k, v in options.items()]
        shown = run_and_kill(command, path, kill_points(size, kills))
    assert f"{num}/{num} answers judged" in shown
    replies = [
        [row for _, row in read(p, REPLIES)[1] if row["status"] == "ok"]
        for p in (path, tmp_path / "whole.jsonl")
    ]
    assert [len(rows) for rows in replies] == [num, num]
    assert len({row["index"] for row in replies[0]}) == num
    found, wanted = ({row["index"]: row["reply"] for row in rows} for rows in replies)
    assert found == wanted
    # what was on its way when the process died is asked once more
    assert len(stub.requests) <= 3 * num
