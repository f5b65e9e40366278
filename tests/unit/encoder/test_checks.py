from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from pipeline.encoder.attention import Runtime
from pipeline.encoder.batching import BatchBudget
from pipeline.encoder.checks import check_encoder, check_segments
from pipeline.encoder.loading import load_tokenizer
from pipeline.encoder.model import EncoderModel, Head, load_network
from pipeline.encoder.outputs import EmbeddingOptions
from pipeline.encoder.tokenize import Padding, TextTokenizer, TokenOptions
from pipeline.errors import ModelError
from tests.tiny import make_rows
from tests.unit.encoder.families import FAMILIES

_SHAPE = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}


@pytest.fixture
def encoder(tmp_path: Path, encoder_directory: Path) -> Path:
    return Path(shutil.copytree(encoder_directory, tmp_path / "encoder"))


def rewrite_weights(directory: Path, weights: dict[str, torch.Tensor]) -> None:
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("head", ["AutoModel", "AutoModelForSequenceClassification", "AutoModelForMaskedLM"])
def test_an_encoder_with_a_layer_that_is_not_in_the_file_is_refused(encoder: Path, head: str) -> None:
    weights = load_file(encoder / "model.safetensors")
    rewrite_weights(encoder, {name: value for name, value in weights.items() if ".layer.1." not in name})
    with pytest.raises(ModelError, match=r"encoder\.layer\.1\.\S+ is missing, and 15 more do not fit"):
        load_network(encoder, head)


def test_weights_under_other_names_are_refused_and_named(encoder: Path) -> None:
    weights = load_file(encoder / "model.safetensors")
    rewrite_weights(encoder, {f"network.{name}": value for name, value in weights.items()})
    with pytest.raises(ModelError, match="is missing") as caught:
        load_network(encoder, "AutoModel")
    assert "such as network.embeddings" in str(caught.value)


def test_an_encoder_of_another_size_is_refused(encoder: Path) -> None:
    weights = load_file(encoder / "model.safetensors")
    name = "embeddings.word_embeddings.weight"
    rewrite_weights(encoder, {**weights, name: weights[name][:50].contiguous()})
    with pytest.raises(ModelError, match=r"word_embeddings\.weight is \(50, 32\), expected"):
        load_network(encoder, "AutoModel")


def test_a_masked_language_model_has_no_pooler_and_is_an_encoder(tmp_path: Path) -> None:
    transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=50, **_SHAPE)).save_pretrained(tmp_path)
    assert load_network(tmp_path, "AutoModel").pooler is not None


@pytest.mark.parametrize("head", ["AutoModelForSequenceClassification", "AutoModelForTokenClassification"])
def test_a_head_for_other_labels_makes_room_for_a_new_one(tmp_path: Path, head: str) -> None:
    config = transformers.BertConfig(vocab_size=50, num_labels=3, **_SHAPE)
    trained = getattr(transformers, head).from_config(config)
    trained.save_pretrained(tmp_path)
    labels = {"id2label": dict(enumerate("abcde")), "label2id": {label: i for i, label in enumerate("abcde")}}
    network = load_network(tmp_path, head, **labels)
    assert network.classifier.weight.shape == (5, 32)
    assert torch.equal(network.bert.embeddings.word_embeddings.weight, trained.bert.embeddings.word_embeddings.weight)


def save_config(directory: Path, config: Any) -> str:
    config.save_pretrained(directory)
    return str(directory)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (transformers.T5Config(), "a t5 model has a decoder"),
        (transformers.YosoConfig(), "a yoso model's results depend on the other texts of a batch"),
        (transformers.CanineConfig(), "a canine model's results depend on the other texts of a batch"),
        (transformers.FNetConfig(), "a fnet model's results depend on the other texts of a batch"),
        (transformers.BigBirdConfig(), "attention_type is block_sparse, whose results depend on the other texts"),
        (transformers.ReformerConfig(), "a reformer model's results depend on the other texts of a batch"),
        (
            transformers.XLNetConfig(summary_type="mean"),
            "summary_type is mean, whose results depend on the other texts",
        ),
        (transformers.XmodConfig(), "an xmod model without a language"),
        (transformers.BertConfig(position_embedding_type="relative_key"), "position_embedding_type is relative_key"),
    ],
)
def test_what_would_be_computed_wrongly_is_refused(
    tmp_path: Path, encoder_directory: Path, config: Any, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        check_encoder(save_config(tmp_path, config), "AutoModel", 64, load_tokenizer(encoder_directory))


@pytest.mark.parametrize("head", ["AutoModelForSequenceClassification", "AutoModelForQuestionAnswering"])
def test_a_head_that_steers_its_encoder_s_attention_is_refused(
    tmp_path: Path, encoder_directory: Path, head: str
) -> None:
    source, tokenizer = save_config(tmp_path, transformers.LongformerConfig()), load_tokenizer(encoder_directory)
    check_encoder(source, "AutoModel", 64, tokenizer)
    with pytest.raises(ModelError, match=f"a longformer model's {head} needs global attention"):
        check_encoder(source, head, 64, tokenizer)


@pytest.mark.parametrize("family", ["GPT2", "OpenAIGPT", "Llama"])
@pytest.mark.parametrize("pad_id", [None, 2])
def test_a_head_that_finds_the_last_token_by_its_padding_is_told_of_it(
    tmp_path: Path, encoder_directory: Path, family: str, pad_id: int | None
) -> None:
    """With an id that no text is padded with it would read padding, so another text's length."""
    tokenizer, head = load_tokenizer(encoder_directory), "AutoModelForSequenceClassification"
    config = getattr(transformers, f"{family}Config")
    source = save_config(tmp_path, config(pad_token_id=pad_id))
    check_encoder(source, "AutoModel", 64, tokenizer)
    with pytest.raises(ModelError, match=rf"pad_token_id is {pad_id} in config\.json and 0 in the tokenizer") as caught:
        check_encoder(source, head, 64, tokenizer)
    assert "tokenizer.eos_token" in caught.value.remedy
    check_encoder(save_config(tmp_path, config(pad_token_id=tokenizer.pad_token_id)), head, 64, tokenizer)


@pytest.mark.parametrize("head", ["AutoModel", "AutoModelForTokenClassification"])
def test_a_family_that_needs_more_than_a_text_s_tokens_is_refused(tmp_path: Path, head: str) -> None:
    network = getattr(transformers, head).from_config(transformers.BrosConfig(vocab_size=50, **_SHAPE))
    network.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="a bros model does not run on a batch of texts: You have to specify bbox"):
        load_network(tmp_path, head)


@pytest.mark.parametrize("name", ["Roberta", "Data2VecText", "RobertaPreLayerNorm", "Camembert", "XLMRobertaXL"])
def test_positions_before_a_text_s_first_do_not_count(tmp_path: Path, encoder_directory: Path, name: str) -> None:
    config = getattr(transformers, f"{name}Config")(max_position_embeddings=66, pad_token_id=1)
    source, tokenizer = save_config(tmp_path, config), load_tokenizer(encoder_directory)
    check_encoder(source, "AutoModel", 64, tokenizer)
    with pytest.raises(ModelError, match="has positions for 64 tokens, and max_length is 65"):
        check_encoder(source, "AutoModel", 65, tokenizer)


def test_a_model_that_counts_positions_from_padding_has_such_a_token(tmp_path: Path, encoder_directory: Path) -> None:
    transformers.RobertaConfig(max_position_embeddings=66, pad_token_id=None).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(encoder_directory)
    with pytest.raises(ModelError, match=r"config\.json has no pad_token_id, and a roberta model counts positions"):
        check_encoder(str(tmp_path), "AutoModel", 8, tokenizer)


def test_a_pair_of_more_segments_than_the_model_knows_is_refused(tmp_path: Path, encoder_directory: Path) -> None:
    check_segments(str(encoder_directory), load_tokenizer(encoder_directory))
    source = save_config(tmp_path, transformers.BertConfig(type_vocab_size=1))
    with pytest.raises(ModelError, match="tells 2 segments of a pair apart, and the model knows 1"):
        check_segments(source, load_tokenizer(encoder_directory))
    check_segments(source, FAMILIES["roberta"].tokenizer())


def test_a_tokenizer_with_tokens_that_the_model_has_not_is_refused(encoder_directory: Path) -> None:
    tokenizer = load_tokenizer(encoder_directory)
    check_encoder(str(encoder_directory), "AutoModel", 64, tokenizer)
    tokenizer.add_tokens(["bertmill"])
    with pytest.raises(ModelError, match=r"the last is 'bertmill'\), the model"):
        check_encoder(str(encoder_directory), "AutoModel", 64, tokenizer)


def test_a_tokenizer_that_makes_no_token_of_some_texts_is_refused(encoder_directory: Path) -> None:
    tokenizer = FAMILIES["bert"].tokenizer()
    check_encoder(str(encoder_directory), "AutoModel", 64, tokenizer)
    tokenizer.backend_tokenizer.post_processor = None
    assert tokenizer("")["input_ids"] == []
    with pytest.raises(ModelError, match="its tokenizer adds no special tokens") as caught:
        check_encoder(str(encoder_directory), "AutoModel", 64, tokenizer)
    assert "post_processor" in caught.value.remedy


def test_a_family_that_takes_no_bf16_runs_in_fp32(encoder_directory: Path) -> None:
    tokenizer = load_tokenizer(encoder_directory)
    config = transformers.DebertaConfig(
        vocab_size=len(tokenizer), relative_attention=True, pos_att_type=["p2c", "c2p"], type_vocab_size=0, **_SHAPE
    )
    network = transformers.DebertaModel(config)
    runtime = Runtime(torch.device("cpu"), torch.bfloat16, BatchBudget(tokens=256, rows=8))
    model = EncoderModel([Head(network, EmbeddingOptions("mean", False))], runtime, Padding.of(tokenizer))
    (outputs,) = model.run(TextTokenizer(tokenizer, TokenOptions(32)).encode(make_rows(8)["text"]))
    assert outputs.finite.all()
    assert model.runtime.autocast_dtype is None
