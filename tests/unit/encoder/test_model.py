from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers.modeling_outputs import BaseModelOutput

from pipeline.encoder.attention import Runtime
from pipeline.encoder.batching import BatchBudget
from pipeline.encoder.fast import FastEncoder
from pipeline.encoder.loading import load_tokenizer
from pipeline.encoder.model import EncoderModel, Head, load_network
from pipeline.encoder.outputs import EmbeddingOptions, ModelOutputs
from pipeline.encoder.tokenize import Padding, TextTokenizer, TokenOptions, TokenRows
from pipeline.errors import ModelError
from tests.tiny import make_network, make_rows

HEAD = "AutoModelForSequenceClassification"
CPU = torch.device("cpu")
SMALL = BatchBudget(tokens=60, rows=7)
MEAN = EmbeddingOptions("mean", normalize=False)


@pytest.fixture(scope="module")
def rows(encoder_directory: Path) -> TokenRows:
    return TextTokenizer(load_tokenizer(encoder_directory), TokenOptions(32)).encode(make_rows(40)["text"])


def model_of(network: Any, embedding: EmbeddingOptions = MEAN, bf16: bool = False) -> EncoderModel:
    return EncoderModel([Head(network, embedding)], Runtime(CPU, torch.bfloat16 if bf16 else None, SMALL), Padding(0))


def run_model(network: Any, rows: TokenRows, embedding: EmbeddingOptions = MEAN, bf16: bool = False) -> ModelOutputs:
    (outputs,) = model_of(network, embedding, bf16).run(rows)
    return outputs


def plain_forward(network: Any, rows: TokenRows, index: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One row alone, without padding: (logits [classes], last hidden states [tokens, hidden])."""
    ids = torch.from_numpy(rows.row(index).astype(np.int64))[None]
    with torch.no_grad():
        output = network(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True)
    return output.logits[0], output.hidden_states[-1][0]


def by_hand(states_SH: torch.Tensor, options: EmbeddingOptions) -> np.ndarray:
    states = states_SH.numpy().astype(np.float64)
    vector = {"mean": states.mean(axis=0), "cls": states[0], "max": states.max(axis=0)}[options.pooling]
    return vector / np.linalg.norm(vector) if options.normalize else vector


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_batches_give_what_plain_transformers_gives_row_by_row(rows: TokenRows, pooling: str, normalize: bool) -> None:
    network, options = make_network(), EmbeddingOptions(pooling, normalize)
    outputs = run_model(network, rows, options)
    for index in range(len(rows)):
        logits, states = plain_forward(network, rows, index)
        np.testing.assert_allclose(outputs.logits[index], logits.numpy(), atol=1e-5)
        np.testing.assert_allclose(outputs.embeddings[index], by_hand(states, options), atol=1e-5)
    assert outputs.finite.all()
    assert (outputs.logits.dtype, outputs.embeddings.dtype) == (np.float32, np.float32)


def test_padded_tokens_are_counted_and_a_pack_has_none(rows: TokenRows) -> None:
    network = make_network()
    num_tokens = int(rows.lengths.sum())
    assert run_model(network, rows).num_padded_tokens == num_tokens
    network.set_attn_implementation("sdpa")
    assert num_tokens < run_model(network, rows).num_padded_tokens < 2 * num_tokens


def test_bf16_stays_near_fp32(rows: TokenRows) -> None:
    network = make_network()
    difference = np.abs(run_model(network, rows).logits - run_model(network, rows, bf16=True).logits)
    assert 0 < difference.max() < 0.1


def test_rows_that_are_not_finite_are_flagged_and_touch_no_other(rows: TokenRows) -> None:
    clean, poisoned = make_network(), make_network()
    token = int(rows.row(0)[1])
    with torch.no_grad():
        poisoned.base_model.embeddings.word_embeddings.weight[token] = float("nan")
    has_token = np.array([token in rows.row(index) for index in range(len(rows))])
    assert 0 < has_token.sum() < len(rows)
    for bf16 in (False, True):
        outputs, expected = (run_model(network, rows, bf16=bf16) for network in (poisoned, clean))
        assert outputs.finite.tolist() == (~has_token).tolist()
        np.testing.assert_array_equal(outputs.logits[~has_token], expected.logits[~has_token])


def test_an_embedding_alone_may_be_not_finite(rows: TokenRows) -> None:
    network = make_network()
    one = TokenRows(rows.row(0), rows.offsets[:2], rows.truncated[:1])

    def spoil(_module: Any, _inputs: Any, output: Any) -> None:
        output[0][:, 1] = float("inf")  # only mean and max pooling look at the second token

    network.base_model.encoder.register_forward_hook(spoil)
    assert not run_model(network, one, EmbeddingOptions("mean", normalize=False)).finite.any()
    assert run_model(network, one, EmbeddingOptions("cls", normalize=False)).finite.all()


def test_a_row_that_fails_only_in_bf16_is_run_again_in_fp32(rows: TokenRows, monkeypatch: pytest.MonkeyPatch) -> None:
    network = make_network()
    expected, run = run_model(network, rows), FastEncoder.__call__

    def overflow(*arguments: Any) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=run(*arguments).last_hidden_state * float("inf"))

    monkeypatch.setattr(FastEncoder, "__call__", overflow)
    outputs = run_model(network, rows, bf16=True)
    assert outputs.finite.all()
    np.testing.assert_allclose(outputs.logits, expected.logits, atol=1e-5)
    np.testing.assert_allclose(outputs.embeddings, expected.embeddings, atol=1e-5)


@pytest.mark.parametrize("is_fast", [True, False])
def test_logits_in_bf16_are_not_coarse(rows: TokenRows, is_fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FastEncoder, "fits", lambda _encoder: is_fast)
    logits = torch.from_numpy(run_model(make_network(), rows, bf16=True).logits)
    assert (logits != logits.bfloat16().float()).float().mean() > 0.9


def test_no_rows_give_empty_outputs() -> None:
    none = TokenRows(np.zeros(0, np.int32), np.zeros(1, np.int64), np.zeros(0, np.bool_))
    outputs = run_model(make_network(), none)
    assert (len(outputs.logits), len(outputs.embeddings), len(outputs.finite)) == (0, 0, 0)
    assert outputs.num_padded_tokens == 0


def test_a_network_is_whole_after_a_run_and_after_a_head_that_failed(
    rows: TokenRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = make_network()
    base, before = network.base_model, {name: value.clone() for name, value in network.state_dict().items()}
    logits, _ = plain_forward(network, rows, 0)
    run_model(network, rows)
    assert network.base_model is base
    after = network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert torch.equal(plain_forward(network, rows, 0)[0], logits)

    def stop(*_inputs: object) -> None:
        raise RuntimeError("stopped")

    monkeypatch.setattr(network.classifier, "forward", stop)
    with pytest.raises(RuntimeError, match="stopped"):
        run_model(network, rows)
    assert network.base_model is base


def test_a_new_head_comes_from_the_seed_and_the_encoder_from_disk(encoder_directory: Path) -> None:
    loaded = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        network = load_network(encoder_directory, HEAD, num_labels=5)
        loaded.append(network.state_dict())
    assert torch.equal(loaded[0]["classifier.weight"], loaded[1]["classifier.weight"])
    assert not torch.equal(loaded[0]["classifier.weight"], loaded[2]["classifier.weight"])
    assert loaded[0]["classifier.weight"].shape == (5, 32)
    embedding = "bert.embeddings.word_embeddings.weight"
    assert torch.equal(loaded[0][embedding], loaded[2][embedding])
    assert {tensor.dtype for tensor in loaded[0].values() if tensor.is_floating_point()} == {torch.float32}


def test_weights_that_are_not_there_are_an_error(tmp_path: Path, encoder_directory: Path) -> None:
    (tmp_path / "config.json").write_text((encoder_directory / "config.json").read_text())
    with pytest.raises(ModelError, match="the model cannot be loaded") as caught:
        load_network(tmp_path, HEAD)
    assert "model.safetensors" in caught.value.remedy


def test_pickled_weights_are_never_read(tmp_path: Path) -> None:
    network = make_network()
    network.config.save_pretrained(tmp_path)
    torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="the model cannot be loaded"):
        load_network(tmp_path, HEAD)


def test_a_family_without_the_head_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(ModelError, match="a ViT model has no AutoModelForSequenceClassification head"):
        load_network(tmp_path, HEAD)


def test_a_tokenizer_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="its tokenizer cannot be loaded") as caught:
        load_tokenizer(tmp_path)
    assert "tokenizer.save_pretrained" in caught.value.remedy


def test_loaded_tokenizers_are_fast(encoder_directory: Path) -> None:
    encoded = TextTokenizer(load_tokenizer(encoder_directory), TokenOptions(8)).encode(pa.array(["good film"]))
    assert encoded.lengths.tolist() == [4]
