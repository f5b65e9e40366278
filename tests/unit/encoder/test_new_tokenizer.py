from __future__ import annotations

import pytest

from pipeline.encoder.new_tokenizer import Vocabulary, train_tokenizer


@pytest.mark.parametrize(("first", "splits_words"), [(0x4E00, True), (0xAC00, False)])
def test_the_limit_holds_over_more_characters_than_tokens(first: int, splits_words: bool) -> None:
    characters = [chr(first + number) for number in range(3_000)]
    texts = ["".join(characters[start : start + 50]) for start in range(0, 3_000, 50)] + [characters[0] * 3] * 9
    tokenizer = train_tokenizer(lambda: texts, Vocabulary("wordpiece", 400, lowercase=False), 32, with_types=False)
    assert 200 < len(tokenizer) <= 400
    assert (len(tokenizer) == 400) >= splits_words
    assert tokenizer.unk_token_id not in tokenizer(characters[0])["input_ids"]


def test_every_character_is_known_where_all_fit() -> None:
    texts = ["".join(chr(0x4E00 + number) for number in range(350))]
    tokenizer = train_tokenizer(lambda: texts, Vocabulary("wordpiece", 400, lowercase=False), 32, with_types=False)
    assert tokenizer.unk_token_id not in tokenizer(texts[0])["input_ids"]
