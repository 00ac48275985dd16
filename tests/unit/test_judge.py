"""The judge stage against an endpoint on this machine."""

import json
import time
from collections import Counter
from email.utils import formatdate

import pytest

from tests.judge_stub import FAULTS, MODEL, Stub, phrases_of, reply_to
from uedpo.errors import InputError
from uedpo.evaluation.append_file import REPLIES, AppendFile, read
from uedpo.evaluation.endpoint import Endpoint, _retry_after
from uedpo.evaluation.judge import judge_answers
from uedpo.evaluation.judge_tasks import is_readable, tasks

KEY = "sk-canary-4711"
NUM = 40
TEMPLATE = "Objects: {}\nQuestion: {}\nTruth: {}\nAnswer: {}\nA literal {{brace}}."


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("UEDPO_JUDGE_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
    rows = [
        {"image_content": ["Cat", f"Dog {i}"], "question": f"What is {i}?", "gt_answer": "A {dog}."}
        for i in range(NUM)
    ]
    (tmp_path / "mmhal-bench_answer_template.json").write_text(json.dumps(rows))
    (tmp_path / "judge.txt").write_text(TEMPLATE)
    (tmp_path / "objects.txt").write_text("List the objects of: {}")
    write_answers(tmp_path / "answers.jsonl", "mmhal", [f"It is {{}} {i} é" for i in range(NUM)])
    return tmp_path


def write_answers(path, benchmark, texts, **changes):
    header = {"uedpo_answers": 1, "benchmark": benchmark, "num": len(texts), "shard": "0/1"} | changes
    with AppendFile(path, header) as file:
        for i, text in enumerate(texts):
            file.append({"id": i, "answer": text})


def judge(folder, url, output="replies.jsonl", benchmark="mmhal", **options):
    template = folder / ("judge.txt" if benchmark == "mmhal" else "objects.txt")
    options = {"yes": True, "backoff": 0.01, "timeout": 20.0, "template": str(template)} | options
    return judge_answers(
        benchmark, str(folder / "answers.jsonl"), str(folder / output), MODEL, assets=str(folder),
        base_url=url, **options,
    )  # fmt: skip


def accepted(path):
    """Row -> reply; each row once."""
    rows = [row for _, row in read(path, REPLIES)[1] if row["status"] == "ok"]
    assert len({row["index"] for row in rows}) == len(rows)
    return {row["index"]: row["reply"] for row in rows}


def files_without(folder, text):
    return [
        path for path in folder.rglob("*") if path.is_file() and text in path.read_bytes().decode("utf-8")
    ]


def test_every_answer_is_judged_once_without_faults(folder, capsys):
    with Stub() as stub:
        assert judge(folder, stub.url) == 0
    assert len(stub.requests) == NUM
    headers, body = stub.requests[0]
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert (body["model"], body["temperature"], body["max_tokens"]) == (MODEL, 0.0, 512)
    prompts = {body["messages"][0]["content"] for _, body in stub.requests}
    assert {body["messages"][0]["role"] for _, body in stub.requests} == {"user"}
    text = (
        "Objects: Cat, Dog 3\nQuestion: What is 3?\nTruth: A {dog}.\nAnswer: It is {} 3 é\nA literal {brace}."
    )
    assert text in prompts
    replies = accepted(folder / "replies.jsonl")
    assert replies[3] == reply_to(text)
    assert sorted(replies) == list(range(NUM))
    assert f"{NUM}/{NUM} answers judged by {MODEL}" in capsys.readouterr().out
    header = read(folder / "replies.jsonl", REPLIES)[0]
    assert (header["judge"], header["num"]) == (MODEL, NUM)


@pytest.mark.parametrize("seed", [0, 1])
def test_judge_that_fails_for_a_third_gives_the_same_replies(folder, seed, capsys):
    with Stub() as stub:
        judge(folder, stub.url, "clean.jsonl")
    # the odds of nine faults in a row are 2 in 100,000
    with Stub(faulty=0.3, seed=seed, pause=0.8) as stub:
        assert judge(folder, stub.url, timeout=0.4, concurrency=8) == 0
    assert set(stub.faults) == set(FAULTS)
    assert accepted(folder / "replies.jsonl") == accepted(folder / "clean.jsonl")
    rows = [row for _, row in read(folder / "replies.jsonl", REPLIES)[1]]
    # a call that times out may not have reached the endpoint
    assert len(stub.requests) <= len(rows) <= 3 * NUM
    statuses = Counter(row["status"] for row in rows)
    assert set(statuses) == {"ok", "http 500", "http 429", "timeout", "malformed", "wrong model"}
    for i in range(NUM):
        mine = [row for row in rows if row["index"] == i]
        assert [row["attempt"] for row in mine] == list(range(1, len(mine) + 1))
        assert [row["status"] == "ok" for row in mine] == [False] * (len(mine) - 1) + [True]
        assert all((row["reply"] is None) == (row["status"] != "ok") for row in mine)
    kept = {row["status"]: row.get("raw") for row in rows}
    assert "Rating" in kept["wrong model"]
    assert kept["http 500"] == "no, not with Bearer [key]"
    assert f"{NUM}/{NUM} answers judged" in capsys.readouterr().out


def test_key_is_in_no_file_and_on_no_screen(folder, capfd):
    with Stub(faulty=0.5, pause=0.0, reply=lambda prompt: f"Rating: 1 {KEY}") as stub:
        judge(folder, stub.url, max_retries=2)
    assert any(headers["Authorization"].endswith(KEY) for headers, _ in stub.requests)
    assert not files_without(folder, KEY)
    shown = capfd.readouterr()
    assert KEY not in shown.out + shown.err


def test_judge_goes_on_where_it_stopped(folder, capsys):
    with Stub(faulty=0.6, pause=0.0) as stub:
        assert judge(folder, stub.url, max_retries=0) == 1
    first = accepted(folder / "replies.jsonl")
    assert 0 < len(first) < NUM
    assert f"{len(first)}/{NUM} answers judged" in capsys.readouterr().out
    with Stub() as stub:
        assert judge(folder, stub.url) == 0
        assert judge(folder, stub.url) == 0
    assert len(stub.requests) == NUM - len(first)
    attempts = Counter(row["index"] for _, row in read(folder / "replies.jsonl", REPLIES)[1])
    assert all(n == (1 if i in first else 2) for i, n in attempts.items())
    (folder / "judge.txt").write_text(TEMPLATE + " ")
    with pytest.raises(InputError, match=r"replies.jsonl:1: written with other settings: template_sha256="):
        judge(folder, stub.url)


def test_replay_gives_the_recorded_replies(folder):
    with Stub(faulty=0.3, pause=0.0) as stub:
        judge(folder, stub.url)
    options = {"template": None, "yes": False}
    assert judge(folder, None, "again.jsonl", replay=str(folder / "replies.jsonl"), **options) == 0
    assert accepted(folder / "again.jsonl") == accepted(folder / "replies.jsonl")
    lines = [json.dumps({"index": i, "reply": f"Rating: {i}"}) + "\n" for i in (0, 1, 1)]
    (folder / "recorded.jsonl").write_text("".join(lines))
    for _ in range(2):  # the second finds no more than the first
        assert judge(folder, None, "part.jsonl", replay=str(folder / "recorded.jsonl"), **options) == 1
        assert accepted(folder / "part.jsonl") == {0: "Rating: 0", 1: "Rating: 1"}


def test_object_halbench_asks_as_its_script_does(folder, capsys):
    texts = [
        "Assistant: a dog and a car.",
        "One two three",
        "",
        "Assistant: one two three",
        "Four words are enough",
    ]
    (folder / "answers.jsonl").unlink()
    write_answers(folder / "answers.jsonl", "object_halbench", texts)
    with Stub(reply=phrases_of) as stub:
        assert judge(folder, stub.url, benchmark="object_halbench") == 0
    assert sorted(accepted(folder / "replies.jsonl")) == [0, 4]
    assert "2/2 answers judged" in capsys.readouterr().out
    bodies = sorted((body for _, body in stub.requests), key=lambda b: b["messages"][0]["content"])
    assert bodies[1]["messages"] == [{"role": "system", "content": "List the objects of: a dog and a car."}]
    assert (bodies[0]["temperature"], bodies[0]["top_p"]) == (0.2, 1)


def test_unreadable_replies_are_asked_again_and_kept(folder):
    (folder / "answers.jsonl").unlink()
    write_answers(folder / "answers.jsonl", "object_halbench", ["a dog and a car"])
    replies = iter(["()", "5", '["a", 1]', 'Objects:\n["dog"]'])
    with Stub(reply=lambda prompt: next(replies)) as stub:
        assert judge(folder, stub.url, benchmark="object_halbench") == 0
    rows = [row for _, row in read(folder / "replies.jsonl", REPLIES)[1]]
    assert [row["status"] for row in rows] == ["unreadable"] * 3 + ["ok"]
    assert [row.get("raw") for row in rows] == ["()", "5", '["a", 1]', None]


@pytest.mark.parametrize(
    ("reply", "readable"),
    [
        ('["a"]', True), ("[]", True), ('"dog"', True), ('{"a": 1}', True), ('Here:\n["a"]', True),
        ('["a"]\nDone', False), ("()", False), ("null", False), ("3", False), ("[1]", False), ("", False),
        ("['a']", False), ("[" * 100_000, False),
    ],
)  # fmt: skip
def test_object_halbench_reads_what_its_parser_reads(reply, readable):
    assert is_readable("object_halbench", reply) == readable


def test_mmhal_reads_any_text_but_none():
    assert is_readable("mmhal", "no rating")
    assert not is_readable("mmhal", " \n")


def test_endless_faults_end_with_a_count_and_no_score(folder, capsys):
    with Stub(reply=lambda prompt: "") as stub:
        assert judge(folder, stub.url, max_retries=2) == 1
    assert len(stub.requests) == 3 * NUM
    assert accepted(folder / "replies.jsonl") == {}
    out = capsys.readouterr().out
    assert f"0/{NUM} answers judged" in out
    assert f"{3 * NUM} unreadable" in out


@pytest.mark.parametrize("code", [401, 403, 404])
def test_refused_key_stops_at_once(folder, code, capsys):
    with Stub() as stub:
        stub.answer = lambda *_: (code, "no")
        assert judge(folder, stub.url, concurrency=2) == 1
    assert len(stub.requests) <= 4
    assert f"stopped: http {code}" in capsys.readouterr().err


def test_bad_prompt_is_not_asked_again(folder):
    with Stub() as stub:
        stub.answer = lambda *_: (400, "content filter")
        assert judge(folder, stub.url) == 1
    assert len(stub.requests) == NUM


def test_another_model_never_counts_and_ends(folder, capsys):
    with Stub() as stub:
        answer = Stub.answer
        stub.answer = lambda handler, headers, body: answer(
            stub, handler, headers, {**body, "model": "other-1"}
        )
        assert judge(folder, stub.url) == 1
    assert len(stub.requests) <= 9 + 4
    assert accepted(folder / "replies.jsonl") == {}
    assert "answers as other-1; set judge=other-1" in capsys.readouterr().err


def test_redirects_do_not_carry_the_key_away(folder):
    with Stub() as thief, Stub() as stub:
        handler = stub.server.RequestHandlerClass
        send = handler.send_response

        def redirect(self, code):
            send(self, 302)
            self.send_header("Location", thief.url)

        handler.send_response = redirect
        assert judge(folder, stub.url, max_retries=0) == 1
    assert stub.requests
    assert thief.requests == []


def test_retry_after_is_waited_for(folder):
    (folder / "answers.jsonl").unlink()
    write_answers(folder / "answers.jsonl", "object_halbench", ["a dog and a car"])
    codes = iter([429, 200])
    with Stub(reply=phrases_of) as stub:
        stub.answer = lambda h, headers, body: (
            next(codes),
            json.dumps({"model": MODEL, "choices": [{"message": {"content": "[]"}}]}),
        )
        begin = time.perf_counter()
        assert judge(folder, stub.url, benchmark="object_halbench", backoff=1e-6) == 0
    assert time.perf_counter() - begin >= 0.05


def test_retry_after_is_seconds_or_a_date():
    assert _retry_after({"Retry-After": "2.5"}) == 2.5
    assert 8 < _retry_after({"Retry-After": formatdate(time.time() + 10, usegmt=True)}) <= 10
    for text in ("", "soon", "-4", "Wed, 99"):
        assert _retry_after({"Retry-After": text}) == 0


def test_cost_is_told_before_the_first_call(folder, capsys):
    with Stub() as stub:
        with pytest.raises(InputError, match=rf"^{NUM} calls, about \d+ tokens in .* add yes=true to go on$"):
            judge(folder, stub.url, yes=False)
        assert stub.requests == []
        assert judge(folder, stub.url, price_in=10.0, price_out=30.0) == 0
    tokens = sum(-(-len(body["messages"][0]["content"]) // 4) for _, body in stub.requests)
    price = (tokens * 10 + NUM * 512 * 30) / 1e6
    out = capsys.readouterr().out
    assert f"about {tokens} tokens in" in out
    assert f"at most {NUM * 512} out; at most about {price:.2f}" in out


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("api.openai.com/v1", "must be like"), ("file:///etc/passwd", "must be like"),
        ("http://[::1", "no address"), ("http://user:key/v1", "no address"),
        ("https://user:key@host/v1", "must hold no user"), ("https://host/v1?key=3", "must hold no user"),
    ],
)  # fmt: skip
def test_bad_endpoints_are_refused(url, message):
    with pytest.raises(InputError, match=message) as caught:
        Endpoint(url, MODEL, 1.0)
    assert "key@" not in str(caught.value)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{} {} {}", "must hold 4 blanks {}, and has 3"), ("{} {} {} {x}", "must hold 4 blanks"),
        ("{} {} {} {} {", "write {{ and }}"), ("{} {} {} {0.__class__}", "must hold 4 blanks"),
        ("{} {} {} {!r}", "must hold 4 blanks"), ("", "has 0"),
    ],
)  # fmt: skip
def test_templates_with_other_blanks_are_refused(folder, template, message):
    (folder / "judge.txt").write_text(template)
    with pytest.raises(InputError) as caught:
        judge(folder, "http://127.0.0.1:9/v1")
    assert message in str(caught.value)


def test_bad_answer_files_are_named(folder):
    path = folder / "bad.jsonl"

    def problem(texts=("a", "b"), line=None, benchmark="mmhal", **changes):
        path.unlink(missing_ok=True)
        write_answers(path, benchmark, list(texts), **changes)
        if line is not None:
            path.write_text(path.read_text() + line + "\n")
        with pytest.raises(InputError, match=r"^[^\n]*$") as caught:
            tasks("mmhal", path, folder, folder / "judge.txt")
        return str(caught.value)

    assert "bad.jsonl:1: benchmark is 'pope'" in problem(benchmark="pope")
    assert "bad.jsonl:1: shard is '1/2'" in problem(shard="1/2")
    assert "2 of 3 answers (first missing: 2)" in problem(num=3)
    assert "bad.jsonl:4: id=1 is there twice" in problem(line='{"id": 1, "answer": "x"}')
    assert "bad.jsonl:4: answer must be a text" in problem(line='{"id": 2, "answer": 3}')
    assert "bad.jsonl:4: id must be a whole number" in problem(line='{"id": true, "answer": "x"}')
    assert f"{NUM + 1} answers to {NUM} questions" in problem(["a"] * (NUM + 1))
    with pytest.raises(InputError, match=r"none.jsonl: no such file"):
        tasks("mmhal", folder / "none.jsonl", folder, folder / "judge.txt")


def test_bad_reply_files_are_named(folder):
    (folder / "recorded.jsonl").write_text('{"index": 0, "reply": "Rating: 1"}\n')
    judge(folder, None, replay=str(folder / "recorded.jsonl"))
    path = folder / "replies.jsonl"
    good = path.read_text()
    for line, message in (
        ('{"index": 99, "status": "ok", "reply": "a"}', "index=99 is no row that is judged"),
        ('{"index": 0, "status": "ok", "reply": "a"}', "index=0 has its reply above"),
        ('{"index": "1", "status": "ok", "reply": "a"}', "index must be a whole number"),
        ('{"index": 1, "status": "ok", "reply": null}', "reply must be a text"),
        ('{"index": 1, "reply": "a"}', "status must be a text"),
    ):
        path.write_text(good + line + "\n")
        with pytest.raises(InputError, match=rf"replies.jsonl:3: {message}"):
            judge(folder, None, replay=str(folder / "recorded.jsonl"))
    for line, message in (
        ("[]", "must be an object"),
        ('{"index": 1, "reply": 3}', "reply must be"),
        ("{", "not JSON"),
    ):
        (folder / "recorded.jsonl").write_text("\n" + line)
        with pytest.raises(InputError, match=rf"recorded.jsonl:2: {message}"):
            judge(folder, None, "new.jsonl", replay=str(folder / "recorded.jsonl"))
