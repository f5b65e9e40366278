"""Training the embeddings that a run can meet gives what training the whole table gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.encoder.heads import JoinedHeads
from pipeline.finetune.layers import freeze_layers
from pipeline.finetune.loop import LoopJob, train
from pipeline.finetune.plan import learning_rate_factor
from pipeline.finetune.step import TrainingHead
from pipeline.finetune.token_cache import TokenData
from pipeline.finetune.vocabulary import NarrowEmbedding, narrow_vocabulary, widen_vocabulary
from pipeline.tasks.masked_lm import MaskedLanguageModel
from tests.tiny import make_network
from tests.unit.finetune.training import (
    TASK,
    Notes,
    context_for,
    job_for,
    join,
    same_weights,
    token_data,
    validation_rows,
    weights_of,
)

PAD = 0
RECIPE: dict[str, Any] = {"weight_decay": 0.3, "learning_rate": 1e-2, "layer_decay": 0.8, "batch_rows": 7}


@pytest.fixture(scope="module")
def data(tokenizer: Any) -> TokenData:
    return token_data(tokenizer, 30)


def with_larger_vocabulary() -> Any:
    """A network with many more tokens than any row has."""
    network = make_network()
    network.resize_token_embeddings(400, mean_resizing=False)
    torch.nn.init.normal_(network.get_input_embeddings().weight, generator=torch.Generator().manual_seed(5))
    return network


def narrow(job: LoopJob) -> NarrowEmbedding:
    context = job.context
    narrow_vocabulary(context.joined, context.heads, PAD)
    table = context.joined.encoder.get_input_embeddings()
    assert isinstance(table, NarrowEmbedding)
    return table


def job_of(data: TokenData, tokenizer: Any = None, epochs: int = 3, every_s: float = 1e9, **recipe: Any) -> LoopJob:
    validation = None if tokenizer is None else validation_rows(tokenizer, 12, seed=9)
    context = context_for(data, with_larger_vocabulary(), **{**RECIPE, **recipe})
    return job_for(context, epochs=epochs, validation=validation, every_s=every_s)


def assert_same_weights(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, weights in expected.items():
        torch.testing.assert_close(found[name], weights, atol=2e-6, rtol=2e-6, msg=name)


@pytest.mark.parametrize("keep_best", [None, "macro_f1"])
def test_all_weights_become_what_they_become_with_the_whole_table(
    data: TokenData, tokenizer: Any, tmp_path: Path, keep_best: str | None
) -> None:
    # at so high a rate later evaluations are worse, and the best weights are those of an earlier step
    whole, some = (job_of(data, tokenizer, keep_best=keep_best) for _ in range(2))
    start = weights_of(whole.context.joined)
    before = with_larger_vocabulary().get_input_embeddings().weight
    expected = train(whole, Notes(tmp_path / "whole").hooks())
    table = narrow(some)
    used = {PAD, *data.rows.ids.tolist()}
    assert len(table.weight) == len(used) < 100
    found = train(some, Notes(tmp_path / "narrow").hooks())
    steps = [learning_rate_factor(step, some.plan.num_steps, 0.1) for step in range(some.plan.num_steps)]
    at_the_end = np.prod([1 - factor * 1e-2 * 0.8**2 * 0.3 for factor in steps])
    assert bool(float(table.untrained_factor) == pytest.approx(at_the_end, rel=1e-12)) is (keep_best is None)
    assert at_the_end - 1e-12 < float(table.untrained_factor) < 1
    widen_vocabulary(some.context.joined)
    assert_same_weights(weights_of(some.context.joined), weights_of(whole.context.joined))
    assert not same_weights(start, weights_of(whole.context.joined))
    after = some.context.joined.encoder.get_input_embeddings().weight
    unused = [token for token in range(400) if token not in used]
    torch.testing.assert_close(after[unused], before[unused] * table.untrained_factor.float())
    assert found[""].evaluation.metrics == pytest.approx(expected[""].evaluation.metrics, rel=1e-4)


def test_tokens_of_no_training_row_are_judged_as_the_whole_table_would(data: TokenData, tmp_path: Path) -> None:
    whole, some = job_of(data), job_of(data)
    train(whole, Notes(tmp_path / "whole").hooks())
    narrow(some)
    train(some, Notes(tmp_path / "narrow").hooks())
    ids = torch.tensor([[2, 350, int(data.rows.ids[1]), 399]])
    with torch.no_grad():
        found, expected = (job.context.joined.network("").eval()(ids).logits for job in (some, whole))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(IndexError, match="out of range"):
        some.context.joined.network("").train()(ids)


@pytest.mark.parametrize(("position", "next_step"), [(0, 10), (1, 16)])
def test_a_resumed_run_ends_with_the_very_weights(
    data: TokenData, tmp_path: Path, position: int, next_step: int
) -> None:
    """Checkpoint 0 is at the end of an epoch, after step 8, checkpoint 1 in the middle of one, after step 10."""
    undisturbed = job_of(data, every_s=1e-9, batch_rows=4)
    narrow(undisturbed)
    notes = Notes(tmp_path)
    train(undisturbed, notes.hooks())
    widen_vocabulary(undisturbed.context.joined)
    resumed, again = job_of(data, batch_rows=4), Notes(tmp_path / "again")
    narrow(resumed)
    train(resumed, again.hooks(restore=notes.checkpoints[position]))
    assert again.statuses[0].step == next_step
    widen_vocabulary(resumed.context.joined)
    assert same_weights(weights_of(resumed.context.joined), weights_of(undisturbed.context.joined))


def test_checkpoints_hold_the_narrow_table(data: TokenData, tmp_path: Path) -> None:
    sizes = []
    for is_narrow in (False, True):
        job, notes = job_of(data), Notes(tmp_path / str(is_narrow))
        if is_narrow:
            narrow(job)
        train(job, notes.hooks())
        sizes.append(sum(path.stat().st_size for path in notes.checkpoints[0].iterdir()))
    num_left_out = 400 - len({PAD, *data.rows.ids.tolist()})
    assert sizes[0] - sizes[1] > num_left_out * 32 * 4 * 3 - 2_000


def narrowed(joined: JoinedHeads, *heads: TrainingHead) -> bool:
    narrow_vocabulary(joined, heads, PAD)
    return isinstance(joined.encoder.get_input_embeddings(), NarrowEmbedding)


def test_a_table_of_which_most_is_needed_stays_whole(data: TokenData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.finetune.vocabulary._WORTH_IT_SHARE", 0.01)
    assert not narrowed(join(with_larger_vocabulary()), TrainingHead("", TASK, data))


def test_the_table_stays_whole_where_more_than_decay_would_be_lost(data: TokenData) -> None:
    head = TrainingHead("", TASK, data)
    assert narrowed(join(with_larger_vocabulary()), head)
    frozen = join(with_larger_vocabulary())
    freeze_layers(frozen, 0)
    assert not narrowed(frozen, head)
    tied = join(with_larger_vocabulary())
    tied.also = torch.nn.Linear(32, 400, bias=False)
    tied.also.weight = tied.encoder.get_input_embeddings().weight
    assert not narrowed(tied, head)
    hiding: Any = object()
    assert not narrowed(join(with_larger_vocabulary()), replace(head, task=MaskedLanguageModel(), hiding=hiding))
    sparse = join(with_larger_vocabulary())
    sparse.encoder.get_input_embeddings().sparse = True
    assert not narrowed(sparse, head)


def test_padding_that_is_no_token_of_the_table_has_no_place() -> None:
    whole = torch.nn.Embedding(10, 4, padding_idx=7)
    table = NarrowEmbedding(whole, torch.tensor([1, 3]))
    table(torch.tensor([1, 3, 3])).sum().backward()
    assert table.weight.grad is not None
    np.testing.assert_array_equal(table.weight.grad.numpy(), [[1] * 4, [2] * 4])


def test_a_narrow_table_goes_wherever_its_network_is_moved(data: TokenData) -> None:
    job = job_of(data)
    table = narrow(job)
    job.context.joined.to("meta")  # every tensor says where it is, as on a GPU; none has values
    ids = torch.zeros(3, dtype=torch.long, device="meta")
    assert table.train()(ids).device.type == "meta"
    assert {found.device.type for found in (table.weight, table._ids, table._places, table._whole[0].weight)} == {
        "meta"
    }
