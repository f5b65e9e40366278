"""A tokenizer of one's own: its vocabulary is learned from texts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_PAD, _UNKNOWN, _FIRST, _LAST, _MASK = SPECIAL_TOKENS


@dataclass(frozen=True)
class Vocabulary:
    """What a new tokenizer is to be.

    Attributes:
        kind: `wordpiece` splits words at white space and punctuation and then as BERT does; `bpe` merges bytes as
            RoBERTa does, so that no text has an unknown token.
        size: Tokens at most.
        lowercase: Upper case is not told from lower (nor, with wordpiece, an accent from none).
    """

    kind: Literal["wordpiece", "bpe"]
    size: int
    lowercase: bool


def train_tokenizer(texts: Iterable[str], vocabulary: Vocabulary, max_length: int, with_types: bool) -> Any:
    """Learn a vocabulary from texts.

    Args:
        texts: The texts.
        vocabulary: What it is to be.
        max_length: Tokens of the longest input, for whoever loads the tokenizer.
        with_types: The encoder tells a pair's two texts apart by segment.

    Returns:
        A Hugging Face fast tokenizer, which frames texts as BERT does: `[CLS] a [SEP]`, `[CLS] a [SEP] b [SEP]`.
    """
    is_wordpiece = vocabulary.kind == "wordpiece"
    backend = _wordpiece(vocabulary.lowercase) if is_wordpiece else _byte_bpe(vocabulary.lowercase)
    options: dict[str, Any] = {
        "vocab_size": vocabulary.size,
        "special_tokens": list(SPECIAL_TOKENS),
        "show_progress": False,
    }
    trainer = (
        trainers.WordPieceTrainer(**options)
        if is_wordpiece
        else trainers.BpeTrainer(**options, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    )
    backend.train_from_iterator(texts, trainer)
    frame = [(token, backend.token_to_id(token)) for token in (_FIRST, _LAST)]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{_FIRST} $A {_LAST}", pair=f"{_FIRST} $A {_LAST} $B:1 {_LAST}:1", special_tokens=frame
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=_PAD,
        unk_token=_UNKNOWN,
        cls_token=_FIRST,
        sep_token=_LAST,
        mask_token=_MASK,
        model_max_length=max_length,
        model_input_names=["input_ids", *(["token_type_ids"] if with_types else []), "attention_mask"],
    )


def _wordpiece(lowercase: bool) -> Tokenizer:
    backend = Tokenizer(models.WordPiece(unk_token=_UNKNOWN))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return backend


def _byte_bpe(lowercase: bool) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), *([normalizers.Lowercase()] if lowercase else [])])
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    return backend
