from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.studies.scratch import (
    BiLstm,
    KimCnn,
    ScratchRecipe,
    TokenisedSet,
    held_out_rows,
    predict_scratch,
)
from pipeline.studies.spec import ScratchConfig

SMALL = ScratchConfig(embedding_size=16, hidden_size=16, learning_rate=1e-2, min_steps=60, batch_rows=16, max_epochs=8)
CPU = torch.device("cpu")


def token_rows(num_rows: int, seed: int) -> TokenisedSet:
    """Rows of 3 to 9 tokens; token 100, 101 or 102 somewhere among them is the class."""
    draw = np.random.default_rng(seed)
    classes = np.arange(num_rows) % 3
    ids = []
    for label in classes:
        row = draw.integers(10, 20, draw.integers(3, 10))
        row[draw.integers(len(row))] = 100 + label
        ids.append(row)
    return TokenisedSet(ids, classes.astype(np.int64))


@pytest.mark.parametrize("kind", ["bilstm", "cnn"])
@pytest.mark.parametrize("num_rows", [45, 300])
def test_the_deciding_token_is_learned_with_and_without_held_out_rows(kind: str, num_rows: int) -> None:
    test = token_rows(90, 2)
    train = token_rows(num_rows, 1)
    assert (held_out_rows(train.classes) > 0) == (num_rows == 300)
    found = predict_scratch(train, test.ids, ScratchRecipe(kind, SMALL, 1, CPU))
    assert (found == test.classes).mean() > 0.9  # chance is a third


@pytest.mark.parametrize("kind", ["bilstm", "cnn"])
def test_same_seed_same_labels_and_unknown_tokens_are_no_error(kind: str) -> None:
    train, strange = token_rows(45, 1), [np.array([7, 9_999]), np.array([101])] * 20
    config = SMALL.model_copy(update={"min_steps": 5})
    found = [predict_scratch(train, strange, ScratchRecipe(kind, config, 3, CPU)) for _ in range(2)]
    np.testing.assert_array_equal(found[0], found[1])
    assert found[0].shape == (40,)


@pytest.mark.parametrize("network_class", [BiLstm, KimCnn])
def test_padding_changes_nothing(network_class: type[BiLstm | KimCnn]) -> None:
    torch.manual_seed(1)
    network = network_class(30, 4, SMALL).eval()
    with torch.no_grad():
        network.embedding.weight.abs_()
        for convolution in getattr(network, "convolutions", ()):  # tokens count for less than nothing, padding for 0.5
            convolution.weight.copy_(-convolution.weight.abs())
            convolution.bias.fill_(0.5)
    ids_BS = torch.randint(2, 30, (5, 6))
    padded_BS = torch.cat([ids_BS, torch.zeros(5, 9, dtype=torch.long)], dim=1)
    longer_BS = torch.randint(2, 30, (1, 15))
    with torch.inference_mode():
        alone = network(ids_BS)
        together = network(torch.cat([padded_BS, longer_BS]))[:5]
    torch.testing.assert_close(together, alone)


def test_rows_are_held_out_only_where_there_are_twenty_of_each_class() -> None:
    assert held_out_rows(np.repeat(np.arange(5), 19)) == 0
    assert held_out_rows(np.repeat(np.arange(5), 20)) == 10


def test_training_stops_when_the_held_out_loss_no_longer_falls(monkeypatch: pytest.MonkeyPatch) -> None:
    train = token_rows(300, 1)
    shuffled = TokenisedSet(train.ids, np.random.default_rng(1).permutation(train.classes))
    steps = []
    step = torch.optim.Adam.step
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: steps.append(1) or step(self))
    config = SMALL.model_copy(update={"max_epochs": 200, "patience_epochs": 2})
    predict_scratch(shuffled, train.ids[:3], ScratchRecipe("cnn", config, 1, CPU))
    assert 3 * 17 <= len(steps) < 30 * 17  # 270 rows are 17 steps; labels without meaning cannot be learned for long
