"""Tokenizers from Hugging Face directories, without waiting for any model's code."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import ModelError, first_line


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
        raise _not_loaded(source, error) from None


@dataclass(frozen=True)
class CountingTokenizer:
    """A tokenizer's own file, with as much around it as `TextTokenizer` asks for; it knows of no types or padding.

    Attributes:
        backend_tokenizer: A `tokenizers.Tokenizer`.
        unk_token_id: Not told.
        model_input_names: The ids alone.
    """

    backend_tokenizer: Any
    unk_token_id: int | None = None
    model_input_names: tuple[str, ...] = ("input_ids",)


def load_counting_tokenizer(directory: Path) -> CountingTokenizer:
    """Load what counts a bundle's tokens, without transformers and torch: they take seconds to import.

    Raises:
        ModelError: it cannot be loaded.
    """
    from tokenizers import Tokenizer

    try:
        return CountingTokenizer(Tokenizer.from_file(str(directory / "tokenizer.json")))
    except Exception as error:
        raise _not_loaded(directory, error) from None


def _not_loaded(source: str | Path, error: Exception) -> ModelError:
    return ModelError(
        f"{source}: its tokenizer cannot be loaded: {first_line(error)}",
        "save the tokenizer beside the weights with tokenizer.save_pretrained(directory)",
    )


def read_settings(directory: str | Path, name: str, may_lack: bool = False) -> Any:
    """What a JSON file of a model's directory holds; empty where it may lack and does.

    Raises:
        ModelError: it cannot be read.
    """
    file = Path(directory) / name
    try:
        return {} if may_lack and not file.is_file() else json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file}: cannot be read: {error}", "save the model again") from None


def quiet_transformers() -> None:
    """Silence progress bars and new-head warnings: a new head is what fine-tuning asks for."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)
