"""Tokenizers from Hugging Face directories, without waiting for any model's code."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from pipeline.errors import ModelError


def load_tokenizer(source: str | Path) -> Any:
    """Load a tokenizer.

    Raises:
        ModelError: it cannot be loaded.
    """
    from transformers import AutoTokenizer  # seconds, which whoever only names a tokenizer need not wait

    quiet_transformers()
    try:
        return AutoTokenizer.from_pretrained(str(source), trust_remote_code=False)
    except Exception as error:
        raise ModelError(
            f"{source}: its tokenizer cannot be loaded: {first_line(error)}",
            "save the tokenizer beside the weights with tokenizer.save_pretrained(directory)",
        ) from None


def first_line(error: Exception) -> str:
    """An error in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def quiet_transformers() -> None:
    """Silence progress bars and new-head warnings: a new head is what fine-tuning asks for."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)
