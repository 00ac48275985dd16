"""Adapters and model folders of others: nothing they name is imported, followed, evaluated or built."""

import contextlib
import json
import os
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.reliability.harness import tiny_model_folder
from tests.security.limits import one_line
from uedpo.errors import InputError
from uedpo.model import files
from uedpo.model.adapter import attach_adapter
from uedpo.model.hf import HFModel, lora


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model_folder(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def folder(model, tmp_path):
    """A copy of a model that a test may change."""
    return shutil.copytree(model, tmp_path / "copy")


@pytest.fixture(scope="module")
def trained(model, tmp_path_factory):
    """An adapter that this package saved."""
    policy, _ = HFModel(str(model), lora=lora(r=2, alpha=4.0)).load()
    where = tmp_path_factory.mktemp("adapter")
    policy.save_pretrained(where)
    return where


@pytest.fixture
def adapter(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "adapter")


@pytest.fixture
def marker(tmp_path, monkeypatch):
    """A file that must not come to be, and packages on the path that would make it."""
    path = tmp_path / "MARK"
    for name in ("megatron", "evil_module"):
        package = tmp_path / "path" / name
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(f"open({str(path)!r}, 'w')\n")
        (package / "core.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path / "path"))
    yield path
    assert not path.exists(), "code of the attacker ran"
    assert not {"megatron", "evil_module"} & sys.modules.keys()


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def attempt(call, folder):
    """`call`, which may refuse in one line."""
    with contextlib.suppress(InputError):
        call(folder)


def base(model):
    return HFModel(str(model)).base()


def test_our_own_adapter_names_its_layers_and_is_read_again(model, adapter):
    about = json.loads((adapter / "adapter_config.json").read_text())
    assert all(name.startswith("model.language_model.layers.") for name in about["target_modules"])
    policy = attach_adapter(base(model), adapter)
    saved = load_file(adapter / "adapter_model.safetensors")
    own = {k.replace(".default", ""): v for k, v in policy.state_dict().items() if "lora_" in k}
    assert own.keys() == saved.keys()
    assert all(torch.equal(own[k], saved[k]) for k in own)


def test_ranks_and_scales_of_single_layers_are_those_of_peft(model, tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model

    options = {"rank_pattern": {"q_proj": 3}, "alpha_pattern": {"layers.1.self_attn.v_proj": 9}}
    config = LoraConfig(r=2, lora_alpha=5, target_modules=["q_proj", "v_proj"], use_rslora=True, **options)
    made = get_peft_model(base(model), config, "default")
    for name, weight in made.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    made.save_pretrained(tmp_path / "theirs")
    ours = attach_adapter(base(model), tmp_path / "theirs")
    theirs = PeftModel.from_pretrained(base(model), str(tmp_path / "theirs"))
    ids = torch.arange(5, 15)[None]
    assert torch.equal(ours(input_ids=ids).logits, theirs.eval()(input_ids=ids).logits)
    assert not torch.allclose(ours(input_ids=ids).logits, base(model)(input_ids=ids).logits, atol=1e-3)


OPTIONS = {
    "megatron": ({"megatron_config": {"a": 1}, "megatron_core": "megatron.core"}, "is more than plain LoRA"),
    "megatron core": ({"megatron_core": "megatron.evil"}, "megatron_core is more than plain LoRA"),
    "kind": ({"peft_type": "IA3"}, "peft_type must be LORA"),
    "no kind": ({"peft_type": None}, "peft_type must be LORA"),
    "loftq": ({"loftq_config": {"loftq_bits": 4}}, "loftq_config is more than plain LoRA"),
    "replication": ({"layer_replication": [[0, 10**9]]}, "layer_replication is more than plain LoRA"),
    "parameters": ({"target_parameters": ["(a+)+$"]}, "target_parameters is more than plain LoRA"),
    "corda": ({"corda_config": {"cache_file": "/etc/passwd"}}, "corda_config is more than plain LoRA"),
    "unknown": ({"evil": "evil_module.run"}, "evil is more than plain LoRA"),
    "alpha": ({"lora_alpha": "8"}, "lora_alpha must be a number"),
    "alpha inf": ({"lora_alpha": float("inf")}, "lora_alpha must be a number"),
    "dropout": ({"lora_dropout": 2}, "must be from 0 to 1"),
    "alpha pattern": ({"alpha_pattern": {"(a|a)*$": 1}}, "must be a module's name, no pattern"),
    "alpha list": ({"alpha_pattern": [1]}, "a number for each name"),
    "saved": ({"modules_to_save": ["(a+)+$"]}, "must be a module's name, no pattern"),
    "saved text": ({"modules_to_save": "lm_head"}, "must be a list of names"),
    "saved whole": ({"modules_to_save": ["model"]}, "missing (base_model.model.model."),
    "targets": ({"target_modules": ["(a+)+$"]}, "must be a module's name, no pattern"),
    "more targets": ({"target_modules": ["q_proj", "lm_head"]}, "1 missing (lm_head)"),
    "bias": ({"bias": "evil"}, "bias none, all or lora_only"),
    "dora": ({"use_dora": "yes"}, "must be true or false"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_beyond_plain_lora_are_one_line(marker, model, adapter, name):
    changes, said = OPTIONS[name]
    edit(adapter / "adapter_config.json", **changes)
    assert said in one_line(lambda: attach_adapter(base(model), adapter))


EVALUATED = {
    "never returns": {"target_modules": "(.*_*)*z"},
    "broken": {"target_modules": "(((("},
    "rank": {"r": 10**9},
    "rank pattern": {"rank_pattern": {"(.*_*)*z": 10**9}},
    "layers": {"layers_to_transform": [10**9], "layers_pattern": "(.*)*z"},
    "excluded": {"exclude_modules": "(.*_*)*z"},
    "start": {"init_lora_weights": "eva"},
}


@pytest.mark.parametrize("name", EVALUATED)
def test_what_the_tensors_say_themselves_is_not_evaluated(marker, model, adapter, name):
    edit(adapter / "adapter_config.json", **EVALUATED[name])
    policy = attach_adapter(base(model), adapter)
    assert {c.r for c in policy.peft_config.values()} == {2}


def test_adapter_files_that_are_none_are_one_line(model, adapter):
    for text, said in (
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("{}" + " " * 2**23, "more than 4,194,304 bytes"),
        ("[1]", "must hold a JSON object"),
        ("{", "not JSON"),
    ):
        (adapter / "adapter_config.json").write_text(text)
        assert said in one_line(lambda: attach_adapter(base(model), adapter))


def test_tensors_are_compared_before_anything_is_built(model, adapter):
    file = adapter / "adapter_model.safetensors"
    saved = load_file(file)
    name = next(k for k in saved if "lora_A" in k)
    for changed, said in (
        ({name: torch.zeros(2, 99)}, f"1 of another shape ({name})"),
        ({name: torch.zeros(0, 16)}, f"1 of another shape ({name})"),
        ({"base_model.model.evil.lora_A.weight": torch.zeros(1, 1)}, "not of this model"),
        ({"evil": torch.zeros(1)}, "1 not of this model (evil)"),
    ):
        save_file(saved | changed, file)
        assert said in one_line(lambda: attach_adapter(base(model), adapter))
    save_file({"x": torch.zeros(1)}, file)
    assert "none of a LoRA" in one_line(lambda: attach_adapter(base(model), adapter))


def processor(folder):
    return HFModel(str(folder)).processor()


AUDIO = {"audio_tokenizer_class": "AutoModel", "audio_tokenizer_name_or_path": "evil/repo"}
PROCESSORS = {
    "audio": ("processor_config.json", {"audio_tokenizer": AUDIO}),
    "audio deep": ("processor_config.json", {"image_processor": {"a": {"audio_tokenizer": AUDIO}}}),
    "audio file": ("audio_tokenizer_config.json", AUDIO),
    "part": ("processor_config.json", {"qformer_tokenizer": {"x_type": "AutoModel"}}),
    "extractor": ("processor_config.json", {"feature_extractor": {"feature_extractor_type": "AutoModel"}}),
    "class": ("processor_config.json", {"processor_class": "AutoModel"}),
    "own class": ("processor_config.json", {"processor_class": "E", "auto_map": {"AutoProcessor": "e.E"}}),
    "tokenizer class": ("tokenizer_config.json", {"processor_class": "AutoModel"}),
    "vocabulary": ("special_tokens_map.json", {"vocab_file": "/etc/passwd"}),
    "arguments": ("tokenizer_config.json", {"init_inputs": ["/etc/passwd"]}),
    "old name": ("preprocessor_config.json", {"processor_class": "AutoModel"}),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_processor_holds_no_second_model(marker, folder, name, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *a: pytest.fail("a prompt"))
    file, changes = PROCESSORS[name]
    path = folder / file
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | changes))
    said = one_line(lambda: processor(folder))
    assert file in said
    assert "model.path=" in said


def test_a_tokenizer_of_its_own_is_not_run_and_nobody_is_asked(marker, folder, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *a: pytest.fail("a prompt"))
    edit(
        folder / "tokenizer_config.json",
        tokenizer_class="Evil",
        auto_map={"AutoTokenizer": ["evil_module.T", None]},
    )
    edit(folder / "config.json", model_type="evil", auto_map={"AutoConfig": "evil_module.C"})
    for call in (processor, lambda f: HFModel(str(f)).config(), base):
        attempt(call, folder)


def test_a_local_folder_is_loaded_without_a_request(folder, monkeypatch):
    import socket

    hits = []
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, lambda self, address: hits.append(address))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: hits.append(a) or [])
    edit(
        folder / "config.json",
        _name_or_path="evil/repo",
        vision_config={"model_type": "detr", "backbone_config": None},
    )
    for call in (processor, lambda f: HFModel(str(f)).config(), base):
        attempt(call, folder)
    assert hits == []


def index(folder, name):
    weights = load_file(folder / "model.safetensors")
    (folder / files.INDEX).write_text(
        json.dumps({"metadata": {}, "weight_map": dict.fromkeys(weights, name)})
    )
    return folder


@pytest.mark.parametrize(
    "name",
    ["x.bin", "../x.safetensors", "/x.safetensors", "a/x.safetensors", ".safetensors", "x.pt", "", None],
)
def test_an_index_names_plain_files_of_its_folder(marker, folder, name):
    (folder / "model.safetensors").rename(folder / "x.safetensors")
    (folder / "x.bin").write_bytes(b"cposix\nsystem\n(S'true'\ntR.")
    shutil.copy(folder / "x.safetensors", folder.parent)
    shutil.copy(folder / "x.safetensors", folder / "model.safetensors")
    index(folder, name)
    (folder / "model.safetensors").unlink()
    assert "must be a plain *.safetensors file" in one_line(lambda: base(folder))


def test_an_index_of_plain_files_is_read_and_links_may_not_leave(folder, tmp_path):
    index(folder, "x.safetensors")
    (folder / "model.safetensors").rename(folder / "x.safetensors")
    assert base(folder).get_input_embeddings() is not None
    (folder / "x.safetensors").rename(tmp_path / "y.safetensors")
    os.symlink(tmp_path / "y.safetensors", folder / "x.safetensors")
    assert "a link that leaves the model's folder" in one_line(lambda: base(folder))
    (folder / files.INDEX).write_text("[" * 10**6)
    (folder / "x.safetensors").unlink()
    assert "nested too deeply" in one_line(lambda: base(folder))


CONFIGS = {
    "layers": {"text_config": {"num_hidden_layers": 10**7}},
    "towers": {"vision_config": {"num_hidden_layers": 10**9}},
    "width": {"text_config": {"hidden_size": 10**12}},
    "words": {"text_config": {"vocab_size": 10**15}},
    "positions": {"text_config": {"max_position_embeddings": 10**15}},
    "image": {"vision_config": {"image_size": 10**9, "patch_size": 1}},
    "kernel": {"_attn_implementation": "kernels-community/evil"},
    "deep kernel": {"text_config": {"attn_implementation": "evil/kernel:f"}},
    "quantised": {"quantization_config": {"quant_method": "fp8"}},
    "weights": {"transformers_weights": "adapter_model.bin"},
    "backbone": {"vision_config": {"model_type": "detr", "backbone": "evil/repo"}},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_of_impossible_models_are_one_line(marker, folder, name):
    about = json.loads((folder / "config.json").read_text())
    for key, value in CONFIGS[name].items():
        about[key] = (about.get(key, {}) | value) if isinstance(value, dict) else value
    (folder / "config.json").write_text(json.dumps(about))
    for call in (lambda: HFModel(str(folder)).config(), lambda: base(folder)):
        assert "config.json: " in one_line(call)


@pytest.mark.parametrize(
    "changes",
    [
        {"text_config": {"num_hidden_layers": 512, "hidden_size": 2**14, "intermediate_size": 2**14}},
        {"text_config": {"hidden_size": 2**18, "intermediate_size": 2**18}},
        {"text_config": {"vocab_size": 2**24}},
        {"vision_config": {"image_size": 2**14, "patch_size": 1}},
    ],
)
def test_sizes_that_the_weights_do_not_have_are_one_line(folder, changes):
    about = json.loads((folder / "config.json").read_text())
    for key, value in changes.items():
        about[key] |= value
    (folder / "config.json").write_text(json.dumps(about))
    assert "no usable weights" in one_line(lambda: base(folder))


def test_an_adapter_in_a_model_s_folder_is_not_loaded_with_it(marker, folder, adapter):
    shutil.copytree(adapter, folder, dirs_exist_ok=True)
    edit(folder / "adapter_config.json", megatron_config={"a": 1}, megatron_core="megatron.core")
    assert "would be loaded with the model" in one_line(lambda: base(folder))


def test_a_model_of_the_hub_is_looked_through_in_its_cache(model, tmp_path, monkeypatch):
    """The layout of the hub's cache: a snapshot of links to blobs."""
    import huggingface_hub

    place, commit = tmp_path / "models--org--name", "0123456789abcdef0123456789abcdef01234567"
    snapshot = place / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (place / "blobs").mkdir()
    for file in model.iterdir():
        shutil.copy(file, place / "blobs" / file.name)
        os.symlink(f"../../blobs/{file.name}", snapshot / file.name)
    asked = []

    def download(repo, revision=None, allow_patterns=None):
        asked.append((repo, revision, allow_patterns))
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    source = HFModel("org/name")
    loaded = source.base()
    assert asked == [("org/name", None, list(files.SMALL)), ("org/name", commit, ["model.safetensors"])]
    assert (loaded.name_or_path, loaded.config._name_or_path) == ("org/name", "org/name")
    assert commit in source.pin_hint(source.config())
    edit(snapshot / "processor_config.json", audio_tokenizer=AUDIO)
    with pytest.raises(InputError, match=r"audio_tokenizer=.* is never followed"):
        source.processor()
