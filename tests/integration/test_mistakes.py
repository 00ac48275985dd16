"""Mistakes that people make: each is one line that says what, where, what is allowed and what to do."""

import importlib
import json
import runpy
import sys

import pytest
from PIL import Image

from tests.integration.test_refused import tree


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Files and folders to get wrong; `run` is like the directory of a finished run."""
    place = tmp_path_factory.mktemp("mistakes")
    for folder in ("run/checkpoints", "run/adapter", "pictures", "empty"):
        (place / folder).mkdir(parents=True)
    (place / "run/config.yaml").write_text("name: default\n")
    (place / "run/report.html").write_text("<!doctype html>")
    (place / "run/adapter/adapter_config.json").write_text("{}")
    (place / "run/checkpoints/last.ckpt").write_bytes(b"")
    Image.new("RGB", (64, 64)).save(place / "pictures/1.jpg")
    rows = [
        {"image": "pictures/1.jpg", "prompt": "What?", "chosen": f"A cow {n}.", "rejected": f"A pig {n}."}
        for n in range(4)
    ]
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


@pytest.fixture
def said(place, monkeypatch, capsys):
    """What a command prints to standard error when it refuses; nothing has changed then."""
    monkeypatch.chdir(place)

    def refused(module, *arguments):
        monkeypatch.setattr(sys, "argv", [module, *arguments])
        before = tree(place)
        with pytest.raises(SystemExit) as stop:
            runpy.run_module(module, run_name="__main__")
        assert tree(place) == before
        assert stop.value.code == 2
        return capsys.readouterr().err

    return refused


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("weights.alpha = 0.5", "weights.alpha: cannot be read; write key=value, with no space around ="),
        ("--lr 0.1", "--lr: keys have no dashes; write lr=0.1"),
        ("-lr 0.1", "-lr: keys have no dashes; write lr=0.1"),
        ("lr=0.1", "lr: unknown key; did you mean optim.lr?"),
        ("max_steps=9", "max_steps: unknown key; did you mean trainer.max_steps?"),
        ("alpha=1", "alpha: unknown key; did you mean weights.alpha or model.lora.alpha?"),
        ("name=", "name: is empty; give a value, or leave it out"),
        ("data=files data.path=", "data.path: is empty"),
        ("logger=wandb logger.wandb.project=", "logger.wandb.project: is empty"),
        ("name=../x", "name=../x: is a folder below outputs/, without .."),
        ("name=/x", "name=/x: is a folder below outputs/"),
        ("loss=tpo corruption=null", "corruption=null: give the name of one file of conf/corruption/: blank"),
        ("loss=3", "loss=3: give the name of one file of conf/loss/"),
        ("weights=[uncertainty,uniform]", "give the name of one file of conf/weights/"),
        ("method=dpo", "method=dpo: no default chooses a method; write +method=dpo"),
        ("+loss=dpo", "+loss=dpo: one is chosen already; write loss=dpo"),
        ("+method=DPO", "method=DPO: no such choice; did you mean dpo?"),
        ("+method=tpo loss=dpo", "loss=dpo: +method=tpo is loss=tpo, and tables would call the run by the"),
        ("+weights.alpha=0.3", "+weights.alpha=0.3: the key is there already; write weights.alpha=0.3"),
        ("~seed", "seed: missing; set it with seed=VALUE"),
        ("~loss", "loss: missing; choose one of conf/loss/"),
        ("model=llava-hf/llava-1.5-7b-hf", "model=hf model.path=llava-hf/llava-1.5-7b-hf takes a path"),
        ("data=rows.jsonl", "data=rows.jsonl: no such choice; data=files data.path=rows.jsonl takes a path"),
        ("trainer=cuda", "trainer=cuda: no such choice; there are cpu"),
        ("resume=run", "is a folder; to continue the run in it: hydra.run.dir=run resume=auto"),
        ("resume=run/checkpoints", "is a folder; to continue the run in it: hydra.run.dir=run resume=auto"),
        ("resume=true", "resume=True: must be a valid string; auto, required, or the path of a checkpoint"),
        ("reference_cache=run", "reference_cache=run: is the directory of a run; name a folder of its own"),
        ("feature_cache=run", "feature_cache=run: is the directory of a run; name a folder of its own"),
        ("hydra.run.dir=s3://b/x", "hydra.run.dir=s3://b/x: is an address; give a path of this machine"),
        ("hydra.sweep.dir=s", "hydra.sweep.dir: a single run goes to hydra.run.dir; set that, or add -m"),
        ("-m hydra.run.dir=s seed=1,2", "hydra.run.dir: a sweep goes to hydra.sweep.dir; set that"),
        ("-m seed=range(3,0)", "seed=range(3,0): has no values"),
        ("-m seed=0,0", "seed=0,0: names 0 twice"),
        ("-m seed=0,", "seed=0,: cannot be read; commas stand between values: seed=0"),
        ("-m seed=", "seed: is empty"),
        ("-m seed=1,2 resume=run/checkpoints/last.ckpt", "is of one run, not of a sweep"),
        ("optim.lr=1 -m seed=1,x", "seed='x': must be a valid integer"),
        ("model.lora.dropout=1 weights=uniform loss=dpo", "model.lora.dropout=1: must be less than 1"),
        ("+foo=1", "foo: unknown key"),
    ],
)
@pytest.mark.cases(16)
def test_a_wrong_key_value_or_choice(said, arguments, line):
    err = said("uedpo.run", *arguments.split())
    assert line in err
    assert "Error getting object" not in err


def test_the_version_is_ours(place, monkeypatch, capsys):
    from uedpo import __version__

    monkeypatch.setattr(sys, "argv", ["uedpo.run", "--version"])
    with pytest.raises(SystemExit) as stop:
        importlib.import_module("uedpo.run").main()
    assert (stop.value.code, capsys.readouterr().out) == (0, f"uedpo {__version__}\n")


@pytest.mark.parametrize("given", ["+method=dpo", [1], {"seed": 1}.items()])
def test_compose_takes_a_list_of_texts(given):
    from uedpo import compose
    from uedpo.errors import ConfigError

    with pytest.raises(ConfigError, match="give a list of texts, as in "):
        compose(given)


ROW = {"image": "pictures/1.jpg", "prompt": "What?", "chosen": "A cow.", "rejected": "A pig."}


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("text", "keys", "line"),
    [
        (json.dumps({"data": [ROW, ROW]}), "", "is one object that holds lists; write an array of rows"),
        (json.dumps({k: [v, v] for k, v in ROW.items()}), "", "is one object that holds lists"),
        (lines({"img": "1.jpg", "question": "?", "good": "a", "bad": "b"}), "", "rename the columns to"),
        (
            lines(*[{k: v for k, v in ROW.items() if k != "image"}] * 3), "",
            "image is missing; columns found: 'prompt', 'chosen', 'rejected'; rename or add it (null where a",
        ),
        (lines(*[ROW] * 3), "data.image_root=nowhere", "data.image_root=nowhere: no such folder"),
        (lines(*[ROW] * 3), "data.image_root=rows.jsonl", "data.image_root=rows.jsonl: no such folder"),
        (lines(*[ROW] * 3), "data.image_root=pictures", "or set data.image_root to the folder"),
        (lines(*[ROW | {"image": "/coco/1.jpg"}] * 3), "", "or set data.image_root to a folder above all"),
        ("image\tprompt\tchosen\trejected\n1.jpg\t?\ta\tb\n", "", "data=files reads JSON, JSON lines"),
        ("", "", "no rows; give a file with preference pairs"),
    ],
)  # fmt: skip
def test_a_file_of_pairs_that_is_wrong(place, monkeypatch, text, keys, line):
    from uedpo.data.files import file_data
    from uedpo.errors import InputError

    monkeypatch.chdir(place)
    (place / "own.json").write_text(text)
    options = dict(key.removeprefix("data.").split("=") for key in keys.split())
    with pytest.raises(InputError) as error:
        file_data(None, "own.json", **options)
    (place / "own.json").unlink()
    assert line in str(error.value)


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("run", "run: no parquet file; give a hub id or a folder that holds one"),
        (".", ".: is a folder without parquet files; name one file, as rows.jsonl"),
        (
            "nowhere.jsonl",
            "'nowhere.jsonl': no such file (No such file or directory); set the",
        ),
    ],
)
def test_a_place_without_pairs(place, monkeypatch, path, line):
    from uedpo.data.reading import read_rows
    from uedpo.errors import InputError

    monkeypatch.chdir(place)
    with pytest.raises(InputError) as error:
        read_rows(path)
    assert line in str(error.value)


TOOLS = [
    ("explain", "output=run/config.yaml", "output=run/config.yaml: is a file of another kind; name"),
    ("explain", "output=run/report.html", "output=run/report.html: is a file of another kind"),
    ("explain", "output=run", "output=run: is a folder; name a file"),
    ("explain", "image=https://a.b/c.jpg prompt=a chosen=b rejected=c", "is an address; nothing is fetched"),
    ("explain", "adapter=run", "run: no adapter_model.safetensors; name adapter/ of a run"),
    ("export", "output=x", "no run: give one directory of a run"),
    ("export", "pictures", "pictures: not the directory of a run (no config.yaml)"),
    ("export", "run merge=perhaps", "merge='perhaps': must be true or false"),
    ("export", "s3://bucket/x", "s3://bucket/x: is an address; give a path of this machine"),
    ("export", "run output=", "output: is empty; give a value, or leave it out"),
    ("report", "run run", "run run: give one directory of a run, and nothing else"),
    ("report", "pictures", "pictures: no config.yaml; give the directory of a run"),
    ("dashboard", "entity=", "entity: is empty"),
    ("microworld.build", "pairs --assets rows.jsonl", "rows.jsonl: File exists"),
    ("microworld.build", "pairs --assets empty", "--assets empty: no micro_llava"),
    (
        "evaluation.score", "benchmark=pope answers=rows.jsonl assets=rows.jsonl output=run/config.yaml",
        "output=run/config.yaml: is there, and is no report of scores; name a new file",
    ),
    ("evaluation.table", "run/report.html", "run/report.html: not JSON"),
    ("plan", "device=h200", "device=h200: unknown; must be one of h100"),
    ("check", "rows.jsonl", "rows.jsonl: cannot be read; write key=value"),
    ("results.rekey", "pictures", "pictures: no such file; give files that results= wrote"),
    ("compare", "pictures", "pictures: no finished run in it"),
]  # fmt: skip


@pytest.mark.parametrize(("module", "arguments", "line"), TOOLS)
def test_a_wrong_argument_of_a_tool(said, module, arguments, line):
    assert line in said(f"uedpo.{module}", *arguments.split())


def test_a_model_that_is_none(place, monkeypatch):
    from uedpo.errors import InputError
    from uedpo.model.hf import SHIPPED, HFModel, lora

    monkeypatch.chdir(place)
    for path, line in (
        (
            "run/adapter",
            "run/adapter is an adapter, not a model; `python -m uedpo.export RUN_DIR",
        ),
        ("empty", "empty: no config.json; name the folder that holds the files of the model"),
        ("rows.jsonl", "rows.jsonl is a file; name the folder of the model"),
        ("https://huggingface.co/a/b", "an address; name the model as owner/name, or a local folder"),
    ):
        with pytest.raises(InputError) as error:
            HFModel(path).processor()
        assert line in str(error.value)
    for pattern in ("q_proj", "(", ".*vision.*"):
        source = HFModel(f"{SHIPPED}micro_llava", lora=lora(target_modules=pattern))
        if pattern != ".*vision.*":
            with pytest.raises(InputError, match=r"target_modules=.*: matches no layer of the model"):
                source.check(source.processor(), source.config())
        else:
            source.check(source.processor(), source.config())


def test_a_name_that_wandb_does_not_take(tmp_path, monkeypatch):
    from uedpo.errors import InputError
    from uedpo.logger.wandb import WandbRun

    monkeypatch.setattr("uedpo.logger.wandb._keep_media_in", lambda _: None)
    with pytest.raises(InputError, match=r"logger.wandb: Invalid project name 'a/b"):
        WandbRun(str(tmp_path), project="a/b?", mode="offline")
    assert not any(tmp_path.iterdir())


def test_from_python_the_words_are_those_of_python(place, tmp_path):
    from uedpo import Experiment, compose
    from uedpo.errors import InputError

    cfg = compose(["trainer.max_steps=1", "data.train.num_pairs=2", "data.val.num_pairs=2", "threads=1"])
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(InputError, match=r"holds a finished run; name another folder \(on the command line"):
        Experiment.from_config(cfg, tmp_path)
    experiment = Experiment.from_config(cfg, tmp_path / "new")
    for step in (experiment.evaluate, experiment.report):
        with pytest.raises(RuntimeError, match="is of the trained model; call fit"):
            step()
