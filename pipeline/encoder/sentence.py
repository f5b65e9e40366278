"""A Sentence Transformers directory says how its encoder embeds: what a spec leaves out is taken from there."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pipeline.config import EncoderUse
from pipeline.encoder.loading import load_tokenizer, read_settings
from pipeline.errors import ModelError

_KNOWN_MODULES = (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])
_OLD_NAMES = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max"}
UseT = TypeVar("UseT", bound=EncoderUse)


def settle_use(spec: UseT, source: str, is_strict: bool = True) -> UseT:
    """A spec whose `pooling` and `normalize`, where they are left out, are those the model was trained with.

    Args:
        spec: As the user wrote it.
        source: The model's directory.
        is_strict: Refuse a directory whose embeddings are made in a way that no spec can ask for.

    Raises:
        ModelError: naming what it has besides.
    """
    if {"pooling", "normalize"} <= spec.model_fields_set or not (Path(source) / "modules.json").is_file():
        return spec
    modules = {module["type"].rsplit(".", 1)[-1]: module["path"] for module in read_settings(source, "modules.json")}
    settings = read_settings(source, f"{modules['Pooling']}/config.json") if "Pooling" in modules else None
    pooling = "none" if settings is None else _pooling_of(settings)
    if is_strict:
        _check_texts(Path(source))
    if list(modules) in _KNOWN_MODULES and pooling in _OLD_NAMES.values():
        found = {"pooling": pooling, "normalize": "Normalize" in modules}
        return spec.model_copy(update={name: found[name] for name in found.keys() - spec.model_fields_set})
    if not is_strict:
        return spec
    raise ModelError(
        f"{source}: its embeddings are made by {', '.join(modules)} with pooling {pooling}; "
        "expected Transformer, Pooling by cls, mean or max, and perhaps Normalize",
        "set both `pooling` and `normalize` to take the encoder's states in another way than it was trained for",
    )


def _check_texts(directory: Path) -> None:
    """Refuse a model that embeds another text than the one it is given, or keeps a part of an embedding."""
    names = ("config_sentence_transformers.json", "sentence_bert_config.json")
    settings, transformer = (read_settings(directory, name, may_lack=True) for name in names)
    prompt = (settings.get("prompts") or {}).get(settings.get("default_prompt_name"))
    changes = f"a prompt stands before each text ({prompt!r})" if prompt else ""
    if settings.get("truncate_dim"):
        changes = f"embeddings are cut to their first {settings['truncate_dim']} numbers (truncate_dim)"
    if transformer.get("do_lower_case") and not _lowers(load_tokenizer(directory)):
        changes = "texts are made lower case (do_lower_case), and its tokenizer does not do that"
    if changes:
        raise ModelError(
            f"{directory}: {changes}; expected a model that embeds texts as they are, whole",
            "write such texts into the corpus, and set both `pooling` and `normalize` to embed them so",
        )


def _lowers(tokenizer: Any) -> bool:
    return bool(tokenizer("A Text")["input_ids"] == tokenizer("a text")["input_ids"])


def _pooling_of(settings: dict[str, Any]) -> str:
    """One mode, or several joined by +; older files have a flag for each."""
    mode = settings.get("pooling_mode")
    flags = [name.removeprefix("pooling_mode_") for name, value in settings.items() if value is True]
    names = [mode] if isinstance(mode, str) else list(mode or [name for name in flags if name != "include_prompt"])
    return "+".join(_OLD_NAMES.get(name, name) for name in names)
