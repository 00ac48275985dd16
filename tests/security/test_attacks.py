"""Attacks: nothing of theirs runs, nothing is fetched, nothing in a report acts."""

import ast
import contextlib
import http.server
import json
import pickle
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from hydra.errors import HydraException
from omegaconf import OmegaConf
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.config.test_validate import composed, problems
from tests.unit.test_images import encoded, noise, png_header
from tests.unit.test_report import HOSTILE, Nodes, run_folder
from tests.unit.test_rows import GOOD, rlhf_v, write
from uedpo.config.overrides import check_overrides, check_own_config, check_trusted_start
from uedpo.config.trust import target_problem, trust_problems
from uedpo.config.validate import validate
from uedpo.data.images import check_image
from uedpo.data.jsonl import JsonlPairs
from uedpo.data.rejects import RowProblem
from uedpo.errors import ConfigError, InputError
from uedpo.model.adapter import attach_adapter
from uedpo.model.hf import HFModel, lora
from uedpo.report.page import write_report
from uedpo.report.summary import table
from uedpo.report.tables import cell
from uedpo.results.runs import Run

PACKAGE = Path(__file__).parents[2] / "uedpo"


class Evil:
    """A pickle that leaves a mark when it is loaded."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, "w")


@pytest.fixture
def marker(tmp_path, monkeypatch):
    """A file that must not come to be; a module on the path that would make it."""
    path = tmp_path / "MARK"
    mark = f"open({str(path)!r}, 'w')"
    (tmp_path / "evil_module.py").write_text(f"{mark}\ndef run(**kwargs): {mark}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield path
    assert not path.exists(), "code of the attacker ran"
    assert "evil_module" not in sys.modules


@pytest.fixture
def server(monkeypatch):
    """(port, hits) of a loopback server; every connection of this process is a hit too."""
    hits = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            hits.append(self.path)
            self.send_response(302)
            self.send_header("Location", "/again.png")
            self.end_headers()

        def log_message(self, *args):
            pass

    listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    connect = socket.socket.connect

    def counted(self, address):
        hits.append(address)
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", counted)
    yield listener.server_address[1], hits
    listener.shutdown()
    assert hits == []


TARGETS = [
    "os.system",
    "logging.os.system",
    "posix.system",
    "subprocess.run",
    "subprocess.Popen",
    "builtins.exec",
    "builtins.eval",
    "builtins.open",
    "builtins.__import__",
    "shutil.rmtree",
    "pathlib.Path.touch",
    "pathlib.Path",
    "pathlib.Path.write_text",
    "pickle.loads",
    "pickle.load",
    "torch.load",
    "torch.hub.load",
    "torch.jit.load",
    "torch.serialization.load",
    "torch.optim.Optimizer.load_state_dict",
    "torch.optim.optimizer.functools.partial",
    "joblib.load",
    "numpy.load",
    "runpy.run_path",
    "runpy.run_module",
    "importlib.import_module",
    "code.interact",
    "ctypes.CDLL",
    "webbrowser.open",
    "urllib.request.urlopen",
    "urllib.request.urlretrieve",
    "socket.create_connection",
    "requests.get",
    "functools.partial",
    "operator.methodcaller",
    "yaml.unsafe_load",
    "timeit.timeit",
    "antigravity",
    "evil_module.run",
    "evil_module",
    "uedpo.run.os.system",
    "uedpo.results.store.subprocess.run",
    "uedpo.run.write_json",
    "uedpo.results.store.append_row",
    "uedpo.data.jsonl.Path.touch",
    "uedpo.data.jsonl.functools.partial",
    "uedpo.data.rows.os.remove",
    "uedpo.data.jsonl.JsonlPairs.__init__.__globals__.get",
    "uedpo.run.main.__globals__",
    "uedpo.model.hf.AutoConfig.from_pretrained",
    "uedpo.data",
    "uedpo.data.images.FORMATS",
    "pytorch_lightning.LightningModule.load_from_checkpoint",
    "pytorch_lightning.trainer.trainer.os.system",
    "transformers.pipeline",
    "transformers.AutoModel.from_pretrained",
    "transformers.image_utils.load_image",
    "transformers.dynamic_module_utils.get_class_from_dynamic_module",
    "transformers.utils.hub.cached_file",
    "diffusers.DiffusionPipeline.from_pretrained",
    "peft.PeftModel.from_pretrained",
    "peft.utils.save_and_load.torch.load",
    "hydra.utils.call",
    "hydra.utils.instantiate",
    "hydra.utils.get_method",
    "hydra._internal.utils._locate",
    "hydra._internal.core_plugins.basic_launcher.logging.os.system",
    "${oc.env:HOME}",
]
TARGETS += ["", 5, None, ["os.system"]]


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_hostile_targets_are_refused(marker, target):
    assert target_problem(target)
    places = ["callbacks.x", "model.lora", "weights", "data.train"]
    config = composed()
    OmegaConf.set_struct(config, False)
    for place in places:
        changed = config.copy()
        OmegaConf.update(changed, place, {"_target_": target, "command": f"touch {marker}"}, force_add=True)
        with pytest.raises(ConfigError) as caught:
            validate(changed)
        assert f"{place}._target_" in str(caught.value)


def test_targets_hide_nowhere(marker):
    config = composed()
    OmegaConf.set_struct(config, False)
    evil = {"_target_": "evil_module.run"}
    good = "uedpo.callbacks.throughput.Throughput"
    places = {"callbacks.x": {"_target_": good, "deep": [1, {"a": [evil]}]}}
    places |= {"logger.x": {"a": {"b": {"c": evil}}}, "corruption.k": evil}
    for key, value in places.items():
        changed = config.copy()
        OmegaConf.update(changed, key, value, force_add=True)
        assert any("evil_module.run" in p for p in trust_problems(changed)), key


def test_what_the_project_itself_names_is_allowed():
    for name in [
        "torch.optim.AdamW",
        "pytorch_lightning.callbacks.ModelCheckpoint",
        "uedpo.loss.dpo.dpo_loss",
        "pytorch_lightning.loggers.WandbLogger",
        "transformers.optimization.get_scheduler",
        "uedpo.sweep.summary.SweepSummary",
        "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
        "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
    ]:
        assert target_problem(name) is None, name


def test_a_package_of_ones_own_is_named_on_the_command_line(tmp_path, monkeypatch):
    (tmp_path / "my_losses.py").write_text("import os\n\n\ndef loss(beta: float):\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert target_problem("my_losses.loss")
    assert target_problem("my_losses.loss", ["my_losses"]) is None
    assert target_problem("my_losses.os.system", ["my_losses"])
    config = composed("allow_packages=[my_losses]")
    assert trust_problems(config) == trust_problems(config, ["seed=1", "allow_packages=[my_losses]"]) == []
    assert "only the command line may set it" in trust_problems(config, ["seed=1"])[0]
    for name in ("os", "subprocess", "torch", "pickle", "a.b", "1"):
        assert trust_problems(composed(f"allow_packages=['{name}']")), name


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("name=${oc.env:HOME}", "${oc.env:...} is not resolved here"),
        ("hydra.run.dir=${oc.env:HOME}", "hydra.run.dir: ${oc.env:...}"),
        ("+hydra.job.env_set.LD_PRELOAD=/tmp/evil.so", "does not change the environment"),
        ("+hydra.callbacks.x._target_=os.system", "hydra.callbacks.x._target_='os.system': is not allowed"),
        ("hydra.launcher._target_=os.system", "hydra.launcher._target_='os.system': is not allowed"),
        ("++hydra.job_logging.handlers.file.class=logging.handlers.HTTPHandler", "must be one of"),
        ("++hydra.job_logging.handlers.console.stream=ext://os.system", "must be ext://sys.stdout"),
        ("+model.trust_remote_code=true", "model.trust_remote_code=True: must be False"),
        ("+data.train.weights_only=false", "must be True"),
        ("+callbacks.x.custom_pipeline=evil", "must be None"),
    ],
)
def test_hostile_overrides_are_refused(marker, override, part):
    assert part in problems(override)


@pytest.mark.parametrize(
    ("node", "part"),
    [
        ({"a": "${oc.${b}:HOME}"}, "a: ${"),
        ({"a": ["x ${ oc.env : HOME }"]}, "a.0: ${oc.env:...}"),
        ({"a": "${oc.create:{_target_:os.system}}"}, "a: ${oc.create:...}"),
        ({"a": "${oc.decode:${b}}"}, "is not resolved here"),
        ({"hydra": {"job_logging": {"handlers": {"x": {"()": "os.system"}}}}}, "is not called from"),
        ({"hydra": {"searchpath": ["pkg://evil_module"]}}, "would import a package"),
    ],
)
def test_hostile_nodes_are_refused(node, part):
    assert part in "".join(trust_problems(OmegaConf.create(node)))


def test_a_hostile_configuration_file_is_refused_before_hydra_acts(marker, tmp_path):
    folder = tmp_path / "conf"
    folder.mkdir()
    text = OmegaConf.to_yaml(composed())
    own = "allow_packages: [evil_module]\n"
    for name, change in {
        "callback": "hydra:\n  callbacks:\n    x:\n      _target_: evil_module.run\n",
        "own": "hydra:\n  callbacks:\n    x:\n      _target_: evil_module.run\n",
        "env": "hydra:\n  job:\n    env_set:\n      PATH: /tmp\n",
    }.items():
        body = text.replace("allow_packages: []\n", own) if name == "own" else text
        (folder / f"{name}.yaml").write_text(body + change)
        with pytest.raises(ConfigError):
            check_own_config([], str(folder), name, None)
    (folder / "fine.yaml").write_text(text)
    check_own_config(["seed=1,2"], str(folder), "fine", None)
    with pytest.raises(ConfigError, match="would import a package"):
        check_own_config([], "pkg://evil_module", "config", None)
    group = folder / "loss"
    group.mkdir()
    (group / "evil.yaml").write_text("_target_: evil_module.run\n")
    with pytest.raises(ConfigError, match=r"loss\._target_='evil_module\.run'"):
        check_own_config(["loss=dpo,evil", "weights=uniform"], None, None, str(folder))


SWEPT = {
    "+hydra.job.env_set.LD_PRELOAD": ("/tmp/evil.so", "does not change the environment"),
    "hydra.job.env_set.PATH": ("a,/tmp", "Could not override"),
    "seed,more": ("1", "cannot be read"),
    "++hydra.job_logging.handlers.file.class": ("logging.handlers.HTTPHandler", "must be one of"),
    "++hydra.job_logging.root.level": ("INFO", ""),
    "++hydra.job_logging.handlers.console.stream": (
        "ext://sys.stdout,ext://os.system",
        "must be ext://sys.std",
    ),
    "+callbacks.x._target_": ("evil_module.run", "is not allowed"),
    "hydra/launcher": ("basic", ""),
    "+hydra.callbacks.y._target_": ("evil_module.run", "is not allowed"),
    "name": ("${oc.env:HOME}", "${oc.env:...} is not resolved here"),
    "+data.weights_only": ("true,false", "must be True"),
    "weights.token": ("hunter2hunter2", "looks like a secret"),
    "seed": ("choice(0,1)", ""),
    "weights.alpha": ("interval(0.1,0.3)", ""),
}


@pytest.mark.parametrize("key", SWEPT)
def test_what_a_file_sweeps_is_checked_as_on_the_command_line(marker, tmp_path, key, monkeypatch):
    value, part = SWEPT[key]
    folder = tmp_path / "conf"
    (folder / "experiment").mkdir(parents=True)
    params = {"hydra": {"mode": "MULTIRUN", "sweeper": {"params": {key: value}}}}
    own = OmegaConf.to_yaml(OmegaConf.create(params))
    (folder / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{own}")
    (folder / "fine.yaml").write_text(OmegaConf.to_yaml(composed()) + own)
    ways = {
        "name": lambda: check_own_config([], str(folder), "fine", None),
        "dir": lambda: check_own_config(["+experiment=mine"], None, None, str(folder)),
    }
    for call in ways.values():
        if part:
            with pytest.raises((ConfigError, HydraException), match=re.escape(part)):
                call()
        else:
            call()


def test_yaml_tags_do_not_construct(marker, tmp_path):
    (tmp_path / "x.yaml").write_text(f"a: !!python/object/apply:os.system ['touch {marker}']\n")
    with pytest.raises(Exception, match="could not determine a constructor"):
        check_own_config([], str(tmp_path), "x", None)


def test_pickles_are_refused_at_the_door(marker, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="reads a pickle"):
        check_trusted_start("evil.pickle")
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(ConfigError, match="unset it"):
        check_trusted_start(None)
    monkeypatch.delenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
    check_trusted_start(None)
    torch.save({"state_dict": Evil(marker)}, tmp_path / "evil.ckpt")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "evil.ckpt", weights_only=True)


def shipped(folder):
    """A copy of the shipped model's small files."""
    source = Path(HFModel("uedpo:micro_llava").location)
    folder.mkdir()
    for file in source.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_pickled_weights_are_not_loaded(marker, tmp_path):
    folder = shipped(tmp_path / "model")
    for name in ("pytorch_model.bin", "model.pt"):
        torch.save({"w": Evil(marker)}, folder / name)
        with pytest.raises(InputError, match=f"{name} is a pickle, which can run code"):
            HFModel(str(folder)).base()
        (folder / name).unlink()
    with pytest.raises(InputError, match="no usable weights"):
        HFModel(str(folder)).base()
    (folder / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(InputError, match="no usable weights"):
        HFModel(str(folder)).base()
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    torch.save({"w": Evil(marker)}, adapter / "adapter_model.bin")
    with pytest.raises(InputError, match=r"adapter_model\.bin is a pickle"):
        attach_adapter(torch.nn.Linear(1, 1), adapter)


def test_code_that_a_model_brings_does_not_run(marker, tmp_path):
    folder = shipped(tmp_path / "model")
    (folder / "evil.py").write_text((tmp_path / "evil_module.py").read_text())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}})
    )
    with pytest.raises(InputError, match="no usable config"):
        HFModel(str(folder)).config()
    processor = json.loads((folder / "processor_config.json").read_text())
    processor |= {"processor_class": "EvilProcessor", "auto_map": {"AutoProcessor": "evil.Processor"}}
    (folder / "processor_config.json").write_text(json.dumps(processor))
    with contextlib.suppress(InputError):
        HFModel(str(folder)).processor()


def test_another_model_s_adapter_and_tokenizer_are_refused(tmp_path):
    from peft import LoraConfig, get_peft_model

    source = HFModel("uedpo:micro_llava", lora=lora(r=4, alpha=8.0))
    get_peft_model(source.base(), LoraConfig(r=4, target_modules=["q_proj"])).save_pretrained(
        tmp_path / "good"
    )
    policy = attach_adapter(source.base(), tmp_path / "good")
    assert not any(p.requires_grad for p in policy.parameters())
    from safetensors.torch import load_file, save_file

    file = tmp_path / "good" / "adapter_model.safetensors"
    saved = load_file(file)
    first = next(iter(saved))
    for changed, part in (
        ({k.replace("layers.0", "layers.9"): v for k, v in saved.items()}, "layers.9"),
        ({k: v for k, v in saved.items() if k != first}, f"1 missing ({first}"),
        ({k: torch.cat([v, v]) if k == first else v for k, v in saved.items()}, "1 of another shape"),
    ):
        save_file(changed, file)
        with pytest.raises(InputError, match=re.escape(part)):
            attach_adapter(source.base(), tmp_path / "good")
    processor, config = source.processor(), source.config()
    source.check(processor, config)
    processor.image_token = "</s>"
    processor.tokenizer.add_tokens([f"word{i}" for i in range(2000)])
    with pytest.raises(
        InputError, match=r"tokenizer has \d+ tokens, the model's vocabulary 768; .*image token '</s>'"
    ):
        source.check(processor, config)


def addresses(port):
    here = f"127.0.0.1:{port}"
    own = f"""
        http://{here}/a.png HTTP://{here}/a.png https://{here}/a.png http:/{here}/a.png //{here}/a.png
        http://[::1]:{port}/a.png http://0.0.0.0:{port}/a.png http://localhost:{port}/a.png
        http://user:pw@{here}/a.png http://2130706433:{port}/a.png ftp://{here}/a.png file://{here}/etc/passwd
        file:///etc/passwd data:image/png;base64,AAAA s3://{here}/a.png hf://datasets/{here}/a.png
        zip://a.png::http://{here}/a.zip \\\\{here}\\a.png gopher://{here}/ http://{here}/redirect C:\\a.png
    """.split()
    return [*own, f" http://{here}/a.png", f"\thttp://{here}/a.png"]


def test_no_address_is_fetched(server, tmp_path, monkeypatch):
    port, _ = server
    for address in addresses(port):
        with pytest.raises(InputError, match=r"rows\.jsonl:1: image .* is an address; nothing is fetched"):
            JsonlPairs(write(tmp_path / "rows.jsonl", GOOD | {"image": address}))
    for address in (f"x/http://127.0.0.1:{port}/a.png", "..\\http", f"127.0.0.1:{port}/a.png"):
        with pytest.raises(InputError, match=r"rows\.jsonl:1: image"):
            JsonlPairs(write(tmp_path / "rows.jsonl", GOOD | {"image": address}))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "set"
    folder.mkdir()
    text = json.dumps({"question": "What?", "chosen": "A cow.", "rejected": "A pig."})
    stored = [{"bytes": None, "path": a} for a in (*addresses(port), "/etc/passwd")]
    rlhf_v(folder, *({"idx": i, "text": text, "image": image} for i, image in enumerate(stored)))
    from uedpo.data.rlhf_v import RLHFVPairs

    with pytest.raises(InputError, match=r"none is left: .* IMAGE_MISSING"):
        RLHFVPairs(str(folder), max_bad_fraction=1.0)


def bombs() -> list[bytes]:
    """Pictures of kilobytes that would be gigabytes of pixels, most of them by a forged header."""
    gif = bytearray(encoded(noise(), "GIF"))
    gif[6:10] = b"\xff" * 4
    jpeg = bytearray(encoded(noise(), "JPEG"))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = b"\xff" * 4
    sizes = ((10_001, 5_000), (65_535, 65_535), (2**31 - 1, 2**31 - 1))
    whole = encoded(Image.new("1", (10_000, 10_001)), "PNG")
    return [*(png_header(w, h) for w, h in sizes), bytes(gif), bytes(jpeg), whole]


def test_bombs_are_refused_by_their_header():
    for bomb in bombs():
        begin = time.process_time()
        with pytest.raises(RowProblem) as caught:
            check_image(bomb)
        assert caught.value.code == "IMAGE_TOO_LARGE"
        assert time.process_time() - begin < 0.1


MEASURE = """
import re, sys
from pathlib import Path
from uedpo.data.images import check_image, load_image
from uedpo.data.rejects import RowProblem
# not getrusage: its peak is that of the parent until it is passed
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
for look in (check_image, load_image):
    look(Path(sys.argv[1]))  # what any picture costs: the decoders' own start
before = peak()
for name in sys.argv[2:]:
    for look in (check_image, load_image):
        try:
            look(Path(name))
            sys.exit(f"{name} was taken")
        except RowProblem:
            pass
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_bombs_cost_no_memory(tmp_path):
    comment = PngInfo()
    comment.add_text("bomb", "0" * 200_000_000, zip=True)
    hostile = [*bombs(), encoded(noise(), "PNG", pnginfo=comment)]
    files = [tmp_path / f"{i}.png" for i in range(len(hostile) + 1)]
    for file, content in zip(files, [encoded(noise(), "PNG"), *hostile], strict=True):
        file.write_bytes(content)
    command = [sys.executable, "-c", MEASURE, *map(str, files)]
    grown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert int(grown) < 50_000  # kB, all of them together


@pytest.mark.parametrize(
    "text", [*HOSTILE, "[a](javascript:alert(1))", "a|b", "`x`", "</script><script>x()</script>"]
)
def test_reports_stay_inert(tmp_path, text):
    folder = run_folder(tmp_path / "run", text, name=text)
    config = OmegaConf.load(folder / "config.yaml")
    config.model.path, config.method = text, text
    config.allow_packages = [text]
    config.loss._target_ = text
    OmegaConf.save(config, folder / "config.yaml")
    traces = json.loads((folder / "traces.json").read_text())
    traces[0] |= {"clear_image": text, "corrupted_image": "http://127.0.0.1:9/" + text}
    (folder / "traces.json").write_text(json.dumps(traces))
    nodes, clean = Nodes(), Nodes()
    nodes.feed(write_report(folder).read_text())
    clean.feed(write_report(run_folder(tmp_path / "clean")).read_text())
    assert set(nodes.tags) <= set(clean.tags)
    assert "script" not in nodes.tags
    assert not [name for name, _ in nodes.attributes if name.startswith("on")]
    sources = [value for name, value in nodes.attributes if name in ("src", "href")]
    assert [value for value in sources if not value.startswith(("data:image/webp;base64,", "#"))] == []
    run = Run(text, {}, {"val/loss": 1.0})
    (row,) = table({(text, text): [run]}, ["x", "y"], ["val/loss"], {}).splitlines()[2:]
    assert len(re.findall(r"(?<!\\)\|", row)) == 5
    assert "<" not in row
    assert not re.search(r"(?<!\\)[\[`]", row)
    assert "\x1b" not in cell(text)


BANNED = {"eval", "exec", "compile", "__import__"}
BANNED_IMPORTS = set(
    ["pickle", "marshal", "shelve", "dill", "cloudpickle", "requests", "urllib", "httpx", "socket", "runpy"]
)


# what talks to a network: the judge's endpoint, named by the user, redirects refused; and the question
# whether W&B's server or the model hub is there, for a run that is to use it
MAY_CALL_OUT = {
    PACKAGE / "evaluation" / "endpoint.py": {"urllib", "socket"},
    PACKAGE / "logger" / "wandb.py": {"socket"},
    PACKAGE / "runtime" / "hub.py": {"urllib", "socket"},
}


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda f: str(f.relative_to(PACKAGE)))
def test_the_source_keeps_to_the_rules(file):
    banned = BANNED_IMPORTS - MAY_CALL_OUT.get(file, set())
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            assert not {a.name.split(".")[0] for a in node.names} & banned
        if isinstance(node, ast.ImportFrom) and node.module != "urllib.parse":  # takes text apart
            assert (node.module or "").split(".")[0] not in banned
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {k.arg: ast.unparse(k.value) for k in node.keywords}
        assert name not in BANNED
        assert given.get("shell", "False") == "False"
        assert given.get("trust_remote_code", "False") == "False"
        assert given.get("weights_only", "True") == "True"
        if name == "torch.load" or name.endswith("trainer.fit"):
            assert given.get("weights_only") == "True"
        if name.startswith("Auto") and name.endswith(".from_pretrained"):
            assert given["trust_remote_code"] == "False"
        if name == "Environment":
            assert given["autoescape"] == "True"


def test_the_lock_file_holds_what_the_policy_says():
    root = PACKAGE.parent
    entries = (root / "requirements.lock").read_text().replace("\\\n", " ").splitlines()
    pins = {}
    for entry in entries:
        pin, *hashes = entry.split()
        name, pins[name] = pin.split("==")
        assert hashes, name
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", h) for h in hashes), name
    assert not {"lightning", "torch"} & pins.keys()
    version = {
        name: tuple(int(x) for x in pins[name].split(".")[:3]) for name in ("pytorch-lightning", "hydra-core")
    }
    assert version["pytorch-lightning"] >= (2, 6, 6)
    assert version["hydra-core"] >= (1, 3, 8)
    project = (root / "pyproject.toml").read_text()
    assert '"pytorch-lightning>=2.6.6"' in project
    assert '"hydra-core>=1.3.8"' in project


def test_plain_configurations_pass():
    check_overrides(["seed=1"])
