"""Policies and references from the hub, a local folder, or this package."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from transformers.utils import logging as transformers_logging

from uedpo.errors import InputError, out_of_memory
from uedpo.model.families import family_of
from uedpo.model.files import alone, check_files, check_size, pickled_weights, snapshot
from uedpo.model.processors import (
    check_ends,
    check_tokenizer,
    missing_settings,
    time_in_template,
    untried,
)
from uedpo.model.quantize import Bits, quantization_config
from uedpo.runtime.hub import absent, is_hub_id, reachable
from uedpo.runtime.progress import interactive
from uedpo.types import BelowOne, LayerPattern, PositiveFloat, PositiveInt

SHIPPED = "uedpo:"
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
# only the language model's linear layers; "all-linear" would reach the vision tower
LANGUAGE_LINEAR = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


class Lora(NamedTuple):
    """LoRA options, see peft.LoraConfig."""

    r: int
    alpha: float
    dropout: float
    target_modules: str | None


def lora(
    r: PositiveInt = 128,
    alpha: PositiveFloat = 256.0,
    dropout: BelowOne = 0.0,
    target_modules: LayerPattern = None,
) -> Lora:
    """LoRA as the paper trains it (rank 128).

    Args:
        target_modules: regular expression of the adapted layers; None for all linear layers of the language
            model, and none of the vision tower.
    """
    return Lora(r, alpha, dropout, target_modules)


def _matches(pattern: str, config: Any) -> bool:
    """Whether a linear layer of the model that `config` describes has a name that the pattern matches."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
    layers = [name for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)]
    try:
        return any(re.fullmatch(pattern, name) for name in layers)
    except re.error:
        return False


def _train_in_fp32(model: Any, whole: bool) -> None:
    """Hold what is trained in fp32 at least: bf16 has eight bits, and a step of 1e-6 would be rounded away.

    A model that is trained whole is all fp32: some put features of the tower among embeddings as they are.
    """
    for parameter in model.parameters():
        if (whole or parameter.requires_grad) and parameter.dtype in (torch.bfloat16, torch.float16):
            parameter.data = parameter.data.float()


class HFModel:
    """Where a model comes from and how it is trained.

    Args:
        path: hub id, local folder, or "uedpo:micro_llava" for the one in this package.
        revision: commit of a hub id.
        dtype: of the frozen weights; trained ones are fp32 at least. float64 is for comparing runs.
        attn_implementation: of transformers.
        lora: adapter options, or None to train the whole language model against a frozen copy.
        gradient_checkpointing: recompute activations in the backward pass.
        quantize: hold the language model in 4 or 8 bits under the adapter (QLoRA); needs a GPU and
            bitsandbytes.
        reference_quantize: the same for the frozen copy of a model that is trained whole.
        train_projector: train what maps image features into the language model as well; scoring=plain only.
    """

    def __init__(
        self,
        path: str,
        revision: str | None = None,
        dtype: Literal["float32", "bfloat16", "float64"] = "float32",
        attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa",
        lora: Lora | None = None,
        gradient_checkpointing: bool = False,
        quantize: Bits | None = None,
        reference_quantize: Bits | None = None,
        train_projector: bool = False,
    ) -> None:
        self.path, self.revision, self.lora = path, revision, lora
        self.quantize, self.reference_quantize = quantize, reference_quantize
        self.train_projector = train_projector
        self.dtype, self.attn_implementation = dtype, attn_implementation
        self.gradient_checkpointing = gradient_checkpointing
        self.pads_with_end = False

    @property
    def location(self) -> str:
        if not self.path.startswith(SHIPPED):
            return self.path
        return str(Path(__file__).parent.parent / "assets" / self.path.removeprefix(SHIPPED))

    def folder(self, weights: bool = False) -> Path:
        """Where the files are, looked through; a hub id's in the hub's cache, brought there if need be.

        Raises:
            OSError, ValueError: see `snapshot`.
            InputError: a file that says what it must not, see `check_files`.
        """
        local = Path(self.location)
        if local.is_dir():
            check_files(local)
            return local
        if "://" in self.path:
            raise InputError("an address; name the model as owner/name, or a local folder")
        if local.exists():
            raise InputError(f"{local} is a file; name the folder of the model")
        return snapshot(self.path, self.revision, weights)

    def _named(self, config: Any, folder: Path) -> Any:
        """`config` with the name under which others find the model, and its commit."""
        if folder != Path(self.location):
            config._commit_hash = folder.name
        config._name_or_path = self.location
        return config

    def processor(self) -> Any:
        """transformers' processor of the model.

        Raises:
            InputError: there is none, or it needs code of its own.
        """
        with self._loading("processor") as folder:
            if not any((folder / name).exists() for name in PROCESSOR_FILES):
                raise InputError(
                    f"no {' or '.join(PROCESSOR_FILES)}: a model of texts alone, or one that was saved "
                    "without its processor; copy its files there, or let python -m uedpo.export write both"
                )
            own = self.path.startswith(SHIPPED)
            if not own:
                check_tokenizer(folder)
            processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
            if not own:
                check_ends(processor)
            tokenizer = getattr(processor, "tokenizer", None)
            if tokenizer is not None and tokenizer.pad_token_id is None:
                tokenizer.pad_token = tokenizer.eos_token  # what is padded is masked
                self.pads_with_end = True
            return processor

    def config(self) -> Any:
        """transformers' config of the model; loads no weights.

        Raises:
            InputError: there is none, or it needs code of its own.
        """
        with self._loading("config") as folder:
            return self._named(AutoConfig.from_pretrained(folder, trust_remote_code=False), folder)

    def base(self) -> Any:
        """The model as it was published, frozen, in eval mode.

        Raises:
            InputError: weights that are not safetensors, are broken, or need code of their own.
        """
        pickled = pickled_weights(Path(self.location))
        if pickled:
            raise InputError(
                f"model.path={self.path}: {pickled[0]} is a pickle, which can run code; "
                "convert it to safetensors"
            )
        return self._weights(self.quantize)

    def _weights(self, bits: Bits | None) -> Any:
        dtype = getattr(torch, self.dtype)
        options: dict[str, Any] = {}
        own = self.path.startswith(SHIPPED)
        if bits is not None:
            options["quantization_config"] = quantization_config(bits, dtype, self.config())
        if interactive() and not own:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]  # gigabytes to fetch
        with self._loading("weights") as folder:
            if not own:
                check_size(folder)
            loaded: Any = AutoModelForImageTextToText.from_pretrained(
                output_loading_info=True,
                pretrained_model_name_or_path=folder,
                dtype=dtype,
                attn_implementation=self.attn_implementation,
                use_safetensors=True,
                trust_remote_code=False,
                **options,
            )
        model, found = loaded
        if found["missing_keys"]:  # transformers would go on with random ones
            missing = sorted(found["missing_keys"])
            raise InputError(
                f"model.path={self.path}: {len(missing)} weights are missing ({', '.join(missing[:2])}); "
                "complete the files, or name the model they belong to"
            )
        self._named(model.config, folder)
        model.name_or_path = self.location
        return model.requires_grad_(False)

    @contextmanager
    def _loading(self, what: str) -> Iterator[Path]:
        """The folder to read from; one line for whatever the libraries say of a model that does not load."""
        remote = not self.path.startswith(SHIPPED) and is_hub_id(self.path)
        missing, arrived = remote and not reachable(), False
        try:
            folder = self.folder(weights=what == "weights")
            arrived = True
            with alone():
                yield folder
        except InputError as error:
            raise InputError(f"model.path={self.path}: no usable {what}: {error}") from None
        except ImportError as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"model.path={self.path}: its {what} needs a package that is not installed ({reason}); "
                "pip install torchvision num2words, or what is named here"
            ) from None
        except BaseException as error:  # whatever the libraries raise on a file that is not as they expect it
            panic = type(error).__name__ == "PanicException"  # of those written in Rust
            if out_of_memory(error) or not (panic or isinstance(error, Exception)):
                raise
            reason = " ".join(str(error).split())[:300]
            if missing:
                raise InputError(f"{absent(self.path, self.revision)} ({what}: {reason[:150]})") from None
            if remote and isinstance(error, OSError) and not arrived:
                raise InputError(
                    f"model.path={self.path}: the hub does not give it ({reason[:200]}); correct the name or "
                    "the revision, log in with `hf auth login` where it is gated, or name a local folder"
                ) from None
            raise InputError(
                f"model.path={self.path}: no usable {what} ({type(error).__name__}: {reason}); "
                "code that a model brings is never run, only safetensors are read"
            ) from None

    def check(self, processor: Any, config: Any) -> None:
        """Whether the processor is this model's; loads no weights.

        Raises:
            InputError: naming all that does not fit.
        """
        refused = family_of(config).refused
        if refused:
            raise InputError(
                f"model.path={self.path}: model type {config.model_type!r} is refused: {refused}"
            )
        tokenizer = processor.tokenizer
        rows = config.get_text_config().vocab_size
        problems = []
        if len(tokenizer) > rows:
            problems.append(f"the tokenizer has {len(tokenizer)} tokens, the model's vocabulary {rows}")
        if tokenizer.eos_token_id is None:
            problems.append("the tokenizer has no end token (eos_token of tokenizer_config.json)")
        problems += missing_settings(processor)
        token = getattr(processor, "image_token", None)
        wanted = getattr(config, "image_token_id", None)
        wanted = getattr(config, "image_token_index", None) if wanted is None else wanted
        found = None if token is None else tokenizer.convert_tokens_to_ids(str(token))
        # the template's token may stand for a block that holds others (by Aya's and Gemma 3's names)
        inner = (getattr(processor, "img_patch_token", None), getattr(tokenizer, "image_token", None))
        ids = {found, *(tokenizer.convert_tokens_to_ids(str(t)) for t in inner if t is not None)}
        if wanted is not None and wanted not in ids:
            problems.append(f"the tokenizer's image token {token!r} is {found}, the model's is {wanted}")
        if not (getattr(processor, "chat_template", None) or getattr(tokenizer, "chat_template", None)):
            problems.append("there is no chat template")
        if problems:
            raise InputError(f"model.path={self.path}: {'; '.join(problems)}; use the model's own processor")
        pattern = self.lora.target_modules if self.lora else None
        if pattern is not None and not _matches(pattern, config):
            raise InputError(
                f"model.lora.target_modules={pattern}: matches no layer of the model; it is a regular "
                "expression of whole names, as in '.*language_model.*[.](q_proj|v_proj)'"
            )
        problem = untried(processor)
        if problem:
            raise InputError(f"model.path={self.path}: {problem}; use the files that the model came with")

    def pin_hint(self, config: Any) -> str | None:
        """How to get the same weights again, for a hub id without a revision; None where they are settled."""
        if self.revision is not None or self.path.startswith(SHIPPED) or Path(self.path).exists():
            return None
        commit = getattr(config, "_commit_hash", None) or "COMMIT"
        return f"model.path={self.path}: not pinned; add model.revision={commit} for the same weights again"

    def pad_hint(self) -> str | None:
        """A note where the tokenizer that was read has no padding token; None where it has one."""
        if not self.pads_with_end:
            return None
        return f"model.path={self.path}: tokenizer_config.json has no pad_token; the end token stands in"

    def time_hint(self, processor: Any) -> str | None:
        """A warning where the chat template writes the time; None where it does not."""
        if not time_in_template(processor):
            return None
        return (
            f"model.path={self.path}: WARNING: its chat template calls strftime_now, so prompts hold the "
            "time and two runs of one seed differ; write a fixed date in the template"
        )

    def reference(self) -> Any:
        """The frozen reference by itself, in eval mode.

        Raises:
            InputError: see `base`.
        """
        bits = self.reference_quantize
        return self.base() if bits is None else self._weights(bits)

    def load(self, with_reference: bool = True) -> tuple[Any, Any | None]:
        """(policy in train mode, reference or None where disabling the adapter gives it).

        Args:
            with_reference: hold a frozen copy of a model that is trained whole.

        Raises:
            InputError: see `base`; or no language model or projector where this family should have it.
        """
        model, reference = self.base(), None
        family = family_of(model.config)
        projectors = family.projector_paths(model) if self.train_projector else []
        if self.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        if self.lora is None:
            if with_reference:
                bits = self.reference_quantize
                reference = (copy.deepcopy(model) if bits is None else self._weights(bits)).eval()
            for part in (family.language(model), model.get_output_embeddings()):
                part.requires_grad_(True)
            for path in projectors:
                model.get_submodule(path).requires_grad_(True)
        else:
            from uedpo.model.lora import add_lora  # PEFT is slow to import

            targets = self.lora.target_modules or family.lora_targets(model)
            model = add_lora(model, self.lora.r, self.lora.alpha, self.lora.dropout, targets, projectors)
        _train_in_fp32(model, whole=self.lora is None)
        # from_pretrained returns eval mode, where transformers skips gradient checkpointing
        return model.train(), reference
