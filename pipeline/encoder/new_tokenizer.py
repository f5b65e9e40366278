"""A tokenizer of one's own: its vocabulary is learned from texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
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
        size: Tokens at most; of more characters than that the rarest become unknown tokens.
        lowercase: Upper case is not told from lower (nor, with wordpiece, an accent from none).
    """

    kind: Literal["wordpiece", "bpe"]
    size: int
    lowercase: bool


def train_tokenizer(
    texts: Callable[[], Iterable[str]], vocabulary: Vocabulary, max_length: int, with_types: bool
) -> Any:
    """Learn a vocabulary from texts.

    Args:
        texts: Gives the texts, each time from the first on.
        vocabulary: What it is to be.
        max_length: Tokens of the longest input, for whoever loads the tokenizer.
        with_types: The encoder tells a pair's two texts apart by segment.

    Returns:
        A Hugging Face fast tokenizer, which frames texts as BERT does: `[CLS] a [SEP]`, `[CLS] a [SEP] b [SEP]`.
    """
    learn = _wordpiece if vocabulary.kind == "wordpiece" else _byte_bpe
    backend = learn(texts, vocabulary)
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


def _wordpiece(texts: Callable[[], Iterable[str]], vocabulary: Vocabulary) -> Tokenizer:
    room = vocabulary.size - len(SPECIAL_TOKENS)
    backend = _train_wordpiece(texts(), vocabulary, room)
    if backend.get_vocab_size() > vocabulary.size:  # the trainer also adds each character as a word's later piece
        backend = _train_wordpiece(texts(), vocabulary, room // 2)
    return backend


def _train_wordpiece(texts: Iterable[str], vocabulary: Vocabulary, max_characters: int) -> Tokenizer:
    """Of a larger alphabet the most frequent characters are kept; others are unknown tokens."""
    backend = Tokenizer(models.WordPiece(unk_token=_UNKNOWN))
    backend.normalizer = normalizers.BertNormalizer(lowercase=vocabulary.lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(**_options(vocabulary), limit_alphabet=max_characters)
    backend.train_from_iterator(texts, trainer)
    return backend


def _byte_bpe(texts: Callable[[], Iterable[str]], vocabulary: Vocabulary) -> Tokenizer:
    lowercase = [normalizers.Lowercase()] if vocabulary.lowercase else []
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), *lowercase])
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(**_options(vocabulary), initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    backend.train_from_iterator(texts(), trainer)
    return backend


def _options(vocabulary: Vocabulary) -> dict[str, Any]:
    return {"vocab_size": vocabulary.size, "special_tokens": list(SPECIAL_TOKENS), "show_progress": False}
