"""Keeps the notices of libraries off the screen."""

from __future__ import annotations

import itertools
import logging
import os
import warnings


def quiet() -> None:
    """Keep the libraries' notices off the screen, in this process and in workers of a sweep alike."""
    import pytorch_lightning  # noqa: F401  (sets its logger's level when first imported)
    from transformers.utils import logging as transformers_logging

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    # without a network the hub's client tells each of its retries for every file of a model: dozens of lines
    told = itertools.count()
    logging.getLogger("huggingface_hub.utils._http").addFilter(lambda record: next(told) < 1)
    for message in (
        "does not have many workers", "is_gradient_checkpointing", "not resumable", "LeafSpec",
        "gradient_checkpointing_enable",
    ):  # fmt: skip
        warnings.filterwarnings("ignore", message=f".*{message}.*")
