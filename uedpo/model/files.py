"""A model's folder, looked through before transformers reads it.

What its files say is data of others: none of it may name code, another model, a file elsewhere or a size
that no model has. A model of the hub is brought into its cache first, then read from there like any other.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from uedpo.errors import InputError
from uedpo.runtime.inside import check_inside
from uedpo.runtime.small_json import LIMIT, read_json, read_object

INDEX = "model.safetensors.index.json"
SMALL = ("*.json", "*.jinja", "*.txt", "*.model")  # all but the weights
LARGE = frozenset({"tokenizer.json", "vocab.json", INDEX})  # by name, megabytes
LARGEST = 64 * 2**20  # bytes
MOST = 20_000  # entries of a list or an object; a tokenizer of Gemma's has 6,415 added tokens
MOST_TEMPLATES, MOST_TENSORS, LARGEST_HEADER = 100, 100_000, 2**24
Shapes = dict[str, tuple[int, ...]]
ATTENTION = (None, "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
# keys that name code, another model or a file: the values they may have
_ATTENTION_KEYS = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal")
_NAMES = (
    "audio_tokenizer", "backbone", "hub_kernels", "init_inputs", "kernel_config", "special_tokens_map_file",
    "tokenizer_file", "transformers_weights", "use_kernels", "use_pretrained_backbone", "vocab_file",
    "merges_file", "_experts_implementation",
)  # fmt: skip
_ONLY: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(_ATTENTION_KEYS, ATTENTION),
    **dict.fromkeys(_NAMES, (None, False, [], "")),
    "quant_method": ("bitsandbytes",),
    "model_args": (None, {}),  # of timm: a checkpoint among them
}
_TIMM = re.compile(r"[\w.-]*")  # names of its architectures; others are places to fetch from
# largest values of sizes, by what their names end with; a size beyond is memory or time without end
_SIZES = (
    (re.compile(r"(num_|n_)?(hidden_)?layers?|depths?|\w*_layers|n_layer"), 512),
    (re.compile(r"\w*experts\w*|\w*_heads|num_\w*stages"), 4096),
    (re.compile(r"num_labels"), 2**16),
    (re.compile(r"vocab_size|\w*position_embeddings|\w*seq_len\w*|model_max_length|\w*window\w*"), 2**24),
    (re.compile(r"image_size|\w*_?(size|dim|channels|width|height|edge)"), 2**18),
)
_UNBOUNDED = frozenset({"model_max_length", "max_length", "longest_edge", "shortest_edge"})


def check_files(folder: Path) -> None:
    """Whether transformers may read `folder`.

    Raises:
        InputError: naming the file, and what in it is refused.
    """
    check_inside(folder, sorted(folder.rglob("*")))
    if not (folder / "config.json").exists():
        if (folder / "adapter_config.json").exists():
            raise InputError(
                f"{folder} is an adapter, not a model; `python -m uedpo.export RUN_DIR merge=true` makes a "
                "model of both, or give adapter= where there is such a key"
            )
        raise InputError(f"{folder}: no config.json; name the folder that holds the files of the model")
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".jinja", ".txt", ".model"):
            _check_bytes(path, LIMIT if path.suffix == ".jinja" else LARGEST)
    templates = len(list(folder.rglob("*.jinja")))
    if templates > MOST_TEMPLATES:
        raise InputError(
            f"{folder}: {templates} chat templates (at most {MOST_TEMPLATES}); remove those not used"
        )
    for name in ("adapter_config.json", "audio_tokenizer_config.json"):
        if (folder / name).exists():
            raise InputError(
                f"{folder / name}: would be loaded with the model; move it to a folder of its own"
            )
    for path in sorted(folder.rglob("*.json")):
        if path.name in LARGE:
            _check_bytes(path, LARGEST)
        else:
            _check_values(path, read_json(path), "")
    weight_files(folder)
    _check_processor(folder)


def _check_bytes(path: Path, most: int) -> None:
    if path.stat().st_size > most:
        raise InputError(f"{path}: more than {most:,} bytes, which no file of its kind has")


def weight_files(folder: Path) -> list[str]:
    """Names of the files that model.safetensors.index.json lists; empty where there is none.

    Raises:
        InputError: a name that is no plain safetensors file of the folder.
    """
    path = folder / INDEX
    if not path.exists():
        return []
    names = read_object(path, LARGEST).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise InputError(f"{path}: has no weight_map; bring the file back")
    if len(names) > MOST_TENSORS:
        raise InputError(f"{path}: more than {MOST_TENSORS:,} tensors, which no model has")
    listed = sorted({str(name)[:200] for name in names.values()})
    for name in listed:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*\.safetensors", name):
            raise InputError(f"{path}: names {name!r}; must be a plain *.safetensors file of this folder")
    return listed


def tensor_shapes(path: Path) -> Shapes:
    """Name -> shape of each tensor, from the header of a safetensors file.

    Raises:
        OSError, SafetensorError: it is none.
        InputError: its header is larger than that of any model.
    """
    from safetensors import safe_open

    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if LARGEST_HEADER < length < path.stat().st_size:  # others are damaged, which safetensors says
        raise InputError(f"{path}: a header of {length:,} bytes, which no file of weights has")
    with safe_open(path, "pt") as tensors:
        return {key: tuple(tensors.get_slice(key).get_shape()) for key in tensors.keys()}  # noqa: SIM118


def check_size(folder: Path) -> None:
    """Whether the files hold the weights that config.json describes, before transformers makes room for them.

    Raises:
        InputError: they hold fewer.
    """
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText
    from transformers.initialization import no_init_weights

    shapes = [tensor_shapes(folder / name) for name in weight_files(folder) or ["model.safetensors"]]
    if sum(map(len, shapes)) > MOST_TENSORS:
        raise InputError(f"{folder}: more than {MOST_TENSORS:,} tensors, which no model has")
    stored = sum(math.prod(shape) for file in shapes for shape in file.values())
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    with torch.device("meta"), no_init_weights():  # which is half of the time
        model = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
    model.tie_weights()
    needed = sum(parameter.numel() for parameter in model.parameters())
    packed = 8 if getattr(config, "quantization_config", None) else 1  # values in a stored element
    if needed > stored * packed * 1.01:
        raise InputError(
            f"{folder}: weights are missing: config.json describes {needed:,}, the files hold {stored:,}; "
            "complete the files, or name the model they belong to"
        )


def pickled_weights(folder: Path) -> list[str]:
    """Names of weight files that torch would unpickle, where a local folder has no safetensors."""
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return []
    return sorted(f.name for f in folder.iterdir() if f.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl"))


def snapshot(path: str, revision: str | None, weights: bool) -> Path:
    """The folder of the hub's cache with the files of a model, brought there where they are not.

    Raises:
        OSError, ValueError: no such model, or no way to the hub; huggingface_hub says which.
        InputError: see `weight_files`.
    """
    from huggingface_hub import snapshot_download

    folder = Path(snapshot_download(path, revision=revision, allow_patterns=list(SMALL)))
    check_files(folder)
    if weights:
        names = weight_files(folder) or ["model.safetensors"]
        snapshot_download(path, revision=folder.name, allow_patterns=names)
    return folder


@contextmanager
def alone() -> Iterator[None]:
    """Within, the libraries ask nobody: no request to the hub, and no prompt whether code may run."""
    from huggingface_hub import constants
    from transformers import dynamic_module_utils

    before = constants.HF_HUB_OFFLINE, dynamic_module_utils.TIME_OUT_REMOTE_CODE
    constants.HF_HUB_OFFLINE, dynamic_module_utils.TIME_OUT_REMOTE_CODE = True, 0
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, dynamic_module_utils.TIME_OUT_REMOTE_CODE = before


def _check_values(path: Path, node: Any, key: str) -> None:
    """Refuse what `_ONLY` and `_SIZES` do, at any depth."""
    if isinstance(node, Mapping | list) and len(node) > MOST:
        raise InputError(f"{path}: {key or 'it'} has {len(node):,} entries, at most {MOST:,}; correct it")
    if isinstance(node, Mapping):
        for name, value in node.items():
            if name == "architecture" and not _TIMM.fullmatch(str(value)):
                raise InputError(
                    f"{path}: architecture={str(value)[:80]!r} is a place to fetch from; name a model"
                )
            if name in _ONLY and value not in _ONLY[name]:
                raise InputError(
                    f"{path}: {name}={str(value)[:80]!r} names what is not in these files, which is never "
                    "followed; remove the key"
                )
            _check_values(path, value, name)
    elif isinstance(node, list):
        for value in node:
            _check_values(path, value, key)
    elif isinstance(node, int | float) and not isinstance(node, bool) and key not in _UNBOUNDED:
        most = next((most for pattern, most in _SIZES if pattern.fullmatch(key)), None)
        if most is not None and abs(node) > most:
            raise InputError(f"{path}: {key}={node:g}: no model has so many (at most {most}); correct it")


def _check_processor(folder: Path) -> None:
    """A processor is one of transformers, with an image and a video part, and holds no third."""
    from transformers.models.auto import processing_auto

    names: Any = processing_auto.PROCESSOR_MAPPING_NAMES  # type: ignore[attr-defined]
    known = {name for name in names.values() if isinstance(name, str)}
    for name in ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json"):
        path = folder / name
        if not path.exists():
            continue
        about = read_object(path)
        kind = about.get("processor_class")
        if kind is not None and (not isinstance(kind, str) or kind not in known):
            raise InputError(
                f"{path}: processor_class={str(kind)[:80]!r} is no usable processor: none of transformers; "
                "code that a model brings is never run"
            )
        if name == "processor_config.json":
            parts = (k for k, v in about.items() if isinstance(v, Mapping) and not _plain(v))
            more = [k for k in parts if k not in ("image_processor", "video_processor", "chat_template")]
            if more:
                raise InputError(
                    f"{path}: {more[0][:80]} is a part beside image_processor and video_processor, which "
                    "is never loaded; remove it"
                )


def _plain(node: Mapping[str, Any]) -> bool:
    """Whether `node` holds numbers only, as sizes do."""
    return all(value is None or isinstance(value, int | float) for value in node.values())
