"""Model folders of others: nothing they name is imported, followed or built."""

import contextlib
import json
import os
import shutil

import pytest
from safetensors.torch import load_file

from tests.security.limits import edit, one_line
from uedpo.errors import InputError
from uedpo.model import files
from uedpo.model.hf import HFModel


def attempt(call, folder):
    """`call`, which may refuse in one line."""
    with contextlib.suppress(InputError):
        call(folder)


def base(model):
    return HFModel(str(model)).base()


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
    assert "a link that leaves the folder" in one_line(lambda: base(folder))
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
    "timm": {"vision_config": {"model_type": "timm_wrapper", "architecture": "hf_hub:evil/repo"}},
    "timm here": {"vision_config": {"model_type": "timm_wrapper", "architecture": "local-dir:/etc"}},
    "timm's pickle": {
        "vision_config": {"model_type": "timm_wrapper", "model_args": {"checkpoint_path": "x"}}
    },
    "weights": {"transformers_weights": "adapter_model.bin"},
    "backbone": {"vision_config": {"model_type": "detr", "backbone": "evil/repo"}},
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.cases(8)
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
