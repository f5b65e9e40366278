"""What a checkpoint must have before it is trained or bundled: a family with the head, positions, tokens, weights."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoConfig

from pipeline.encoder.forward import counts_from_padding, encode, lay_out, positions_before_first, takes_packs
from pipeline.encoder.tokenize import Padding, TokenRows
from pipeline.errors import ModelError, first_line

EXPECTED_MODEL = "expected a Hugging Face directory with config.json and model.safetensors, or an id of a reachable hub"
_FAMILIES = "BERT, RoBERTa, DistilBERT, ELECTRA, ALBERT, MPNet, ..."
# What they compute of a text changes with its padding, so with the other texts of its batch.
_READ_PADDING = frozenset(["canine", "convbert", "fnet", "funnel", "mobilebert", "nystromformer", "reformer", "yoso"])
# Heads whose own forward tells the encoder which tokens see all others: run apart from it they compute another thing.
_GLOBAL_HEADS = {"longformer": frozenset(["AutoModelForSequenceClassification", "AutoModelForQuestionAnswering"])}
# Those that could compute positions of another kind, until transformers dropped that.
_ONCE_RELATIVE = frozenset(["bert", "roberta", "xlm-roberta", "camembert", "electra", "albert"])


def check_encoder(source: str, head_class: str, max_length: int, tokenizer: Any) -> None:
    """Make sure a model's family has a head and positions for so many tokens, from its configuration alone.

    Args:
        source: A Hugging Face directory or id.
        head_class: Name of the transformers Auto class that has the head.
        max_length: Tokens of the longest window.
        tokenizer: The model's.

    Raises:
        ModelError: it has not, its tokenizer knows more tokens than it or makes none of some texts, or the
            configuration cannot be read.
    """
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except Exception as error:
        raise ModelError(f"{source}: config.json cannot be read: {first_line(error)}", EXPECTED_MODEL) from None
    if type(config) not in getattr(transformers, head_class)._model_mapping:
        raise no_head(source, config, head_class)
    _check_kind(source, config)
    if head_class in _GLOBAL_HEADS.get(config.model_type, ()):
        raise ModelError(
            f"{source}: a {config.model_type} model's {head_class} needs global attention, which is not supported",
            "choose an encoder of the BERT family with long positions, such as ModernBERT",
        )
    if counts_from_padding(config) and config.pad_token_id is None:
        raise ModelError(
            f"{source}: config.json has no pad_token_id, and a {config.model_type} model counts positions from it",
            "write the id that the model was trained with into config.json (RoBERTa's is 1)",
        )
    num_positions = getattr(config, "max_position_embeddings", None)
    num_positions = num_positions and num_positions - positions_before_first(config)
    if num_positions and 0 < num_positions < max_length:
        raise ModelError(
            f"{source}: has positions for {num_positions} tokens, and max_length is {max_length}",
            f"set max_length to {num_positions} or less; long_text: window keeps longer texts",
        )
    if head_class == "AutoModelForSequenceClassification":
        _check_last_token(source, config, tokenizer)
    _check_vocabulary(source, config, tokenizer)
    if not tokenizer.num_special_tokens_to_add():
        raise ModelError(
            f"{source}: its tokenizer adds no special tokens, so a text can be one without any token",
            "set backend_tokenizer.post_processor = TemplateProcessing(single='[CLS] $A [SEP]', ...) and save it",
        )


def check_segments(source: str, tokenizer: Any) -> None:
    """Make sure that a model knows the segments its tokenizer gives the two texts of a pair.

    Args:
        source: A Hugging Face directory.
        tokenizer: The model's.

    Raises:
        ModelError: it does not: it would stop at the first pair.
    """
    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    num_segments = getattr(config, "type_vocab_size", None)
    told = max(tokenizer("a", "b").get("token_type_ids") or [0])
    if num_segments and told >= num_segments:
        raise ModelError(
            f"{source}: its tokenizer tells {told + 1} segments of a pair apart, and the model knows {num_segments}",
            "for a model with one, leave token_type_ids out of model_input_names in tokenizer_config.json",
        )


def no_head(source: str | Path, config: Any, head_class: str) -> ModelError:
    """A family has no such head."""
    family = type(config).__name__.removesuffix("Config")
    return ModelError(
        f"{source}: a {family} model has no {head_class} head", f"choose an encoder of the BERT family ({_FAMILIES})"
    )


def check_weights(source: str | Path, network: Any, found: dict[str, Any], is_ready: bool) -> None:
    """Refuse an encoder of which some weights would be random: transformers only warns. A pooler may be new.

    Args:
        source: Where it was loaded from.
        network: The loaded network.
        found: What `from_pretrained` tells with `output_loading_info`.
        is_ready: Head and pooler may not be new either.

    Raises:
        ModelError: naming the first of those weights.
    """
    prefix = "" if network.base_model is network else f"{network.base_model_prefix}."
    wrong = dict.fromkeys(found["missing_keys"], "is missing")
    wrong |= {name: f"is {tuple(got)}, expected {tuple(want)}" for name, got, want in found["mismatched_keys"]}
    lacking = sorted(name for name in wrong if is_ready or (name.startswith(prefix) and "pooler." not in name))
    if lacking:
        others = f", and {len(lacking) - 1} more do not fit" if len(lacking) > 1 else ""
        unknown = sorted(found["unexpected_keys"])
        remedy = f"; the file has weights that the model does not know, such as {unknown[0]}" if unknown else ""
        raise ModelError(
            f"{source}: the {'model' if is_ready else 'encoder'}'s weight {lacking[0]} {wrong[lacking[0]]}{others}",
            f"check that config.json is of these weights, or save the model again{remedy}",
        )


def check_runs(source: str | Path, network: Any) -> None:
    """Refuse a network that needs more than a text's tokens, such as their places on a page, by running it once.

    Args:
        source: Where it was loaded from.
        network: The loaded network, in fp32.

    Raises:
        ModelError: it stops at two short texts.
    """
    encoder = network.base_model
    if takes_packs(encoder):
        return  # of families that are known to run
    lengths = np.array([8, 5])
    rows = TokenRows(np.zeros(13, np.int32), np.array([0, *lengths.cumsum()]), np.zeros(2, np.bool_))
    try:
        batch = lay_out(rows, np.arange(2), encoder, Padding(0), network.device)
        with torch.no_grad():
            encode(encoder, batch).logits(network)
    except Exception as error:
        raise ModelError(
            f"{source}: a {network.config.model_type} model does not run on a batch of texts: {first_line(error)}",
            f"choose an encoder of the BERT family ({_FAMILIES})",
        ) from None


def _check_last_token(source: str, config: Any, tokenizer: Any) -> None:
    """A decoder's head over rows reads the last token that is not padding, which it knows by the configuration's id."""
    model_class = transformers.AutoModelForSequenceClassification._model_mapping[type(config)]
    is_decoder = "past_key_values" in inspect.signature(model_class.forward).parameters
    pad_id = getattr(config.get_text_config(), "pad_token_id", None)
    if (is_decoder or config.model_type == "openai-gpt") and (pad_id is None or pad_id != tokenizer.pad_token_id):
        raise ModelError(
            f"{source}: pad_token_id is {pad_id} in config.json and {tokenizer.pad_token_id} in the tokenizer; "
            f"expected the same id in both, as a {config.model_type} model's head finds a text's last token by it",
            "tokenizer.pad_token = TOKEN; model.config.pad_token_id = tokenizer.pad_token_id; and save both: the token "
            "that the model was trained with, or for a new head tokenizer.eos_token",
        )


def _check_kind(source: str, config: Any) -> None:
    """Refuse what loads and is computed otherwise than it was trained, or fails at the first text."""
    if config.is_encoder_decoder:
        raise ModelError(
            f"{source}: a {config.model_type} model has a decoder",
            f"choose an encoder of the BERT family ({_FAMILIES})",
        )
    if config.model_type in _READ_PADDING:
        raise ModelError(
            f"{source}: a {config.model_type} model's results depend on the other texts of a batch",
            f"choose an encoder of the BERT family ({_FAMILIES})",
        )
    if config.model_type == "big_bird" and config.attention_type == "block_sparse":
        raise ModelError(
            f"{source}: attention_type is block_sparse, whose results depend on the other texts of a batch",
            "set attention_type: original_full in its config.json, or choose an encoder such as ModernBERT",
        )
    if config.model_type == "xlnet" and config.summary_type != "last":
        raise ModelError(
            f"{source}: summary_type is {config.summary_type}, whose results depend on the other texts of a batch",
            "choose an encoder whose summary_type is last, as XLNet's own, or another family",
        )
    if config.model_type == "xmod" and config.default_language is None:
        raise ModelError(f"{source}: an xmod model without a language", "set default_language in its config.json")
    positions = getattr(config, "position_embedding_type", "absolute") or "absolute"
    if config.model_type in _ONCE_RELATIVE and positions != "absolute":
        raise ModelError(
            f"{source}: position_embedding_type is {positions}, which transformers computes no longer",
            "choose an encoder with absolute positions",
        )


def _check_vocabulary(source: str, config: Any, tokenizer: Any) -> None:
    """A token beyond the embeddings would stop a run at the first text that has it."""
    token, last_id = max(tokenizer.get_vocab().items(), key=lambda item: int(item[1]), default=("", -1))
    num_tokens = getattr(config, "vocab_size", None)
    if num_tokens is not None and last_id >= num_tokens:
        raise ModelError(
            f"{source}: the tokenizer has {last_id + 1} tokens (the last is {token!r}), the model {num_tokens}",
            "save the model after resize_token_embeddings(len(tokenizer)), or the tokenizer of its training",
        )
