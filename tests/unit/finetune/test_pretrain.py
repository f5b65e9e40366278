"""Pretraining from text to a bundle that fine-tuning takes, in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForPreTraining, AutoTokenizer
from transformers.utils.logging import enable_progress_bar

from pipeline.config import parse_spec
from pipeline.errors import CorpusError, ModelError, SpecError
from pipeline.finetune.alone import train_alone
from pipeline.finetune.prepare import prepare_training
from pipeline.finetune.pretrain_spec import PretrainSpec, ScratchConfig
from pipeline.finetune.scratch import start_from_scratch
from pipeline.finetune.spec import DataConfig, FinetuneSpec
from tests.tiny import make_encoder, make_rows
from tests.unit.encoder.families import FAMILIES

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


@pytest.fixture
def texts(tmp_path: Path) -> dict[str, str]:
    """Unlabelled texts; the longer ones are of several windows of 16 tokens."""
    for name, seed, num_rows in (("train", 1, 120), ("held-out", 2, 30)):
        words = make_rows(num_rows, seed)["text"].to_pylist()
        table = pa.table({"body": [" ".join(words[row : row + 1 + row % 3]) for row in range(num_rows)]})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    return {"train": str(tmp_path / "train.parquet"), "validation": str(tmp_path / "held-out.parquet")}


def spec_of(tmp_path: Path, texts: dict[str, str], model: object, **training: Any) -> PretrainSpec:
    raw = {
        "model": model,
        "data": {**texts, "text": "body"},
        "output": str(tmp_path / "pretrained"),
        "max_length": 16,
        "training": {"learning_rate": 3e-3, **training},
    }
    return parse_spec(raw, PretrainSpec, "spec")


def pretrain(spec: PretrainSpec) -> dict[str, float]:
    model = spec.model if isinstance(spec.model, str) else start_from_scratch(spec, spec.model, "spec")
    return train_alone(prepare_training(spec.as_training(model, "spec"), "spec"), num_threads=1)[""].metrics


def test_an_encoder_goes_on_and_fine_tuning_takes_what_comes_of_it(tmp_path: Path, texts: dict[str, str]) -> None:
    make_encoder(tmp_path / "encoder")
    whole_words = {"masking": {"share": 0.3, "whole_words": True}}
    little = pretrain(spec_of(tmp_path, texts, str(tmp_path / "encoder"), epochs=1, **whole_words))
    much = pretrain(spec_of(tmp_path, texts, str(tmp_path / "encoder"), epochs=4, **whole_words))
    assert much["loss"] < little["loss"] - 0.2
    assert much.keys() == {"loss", "accuracy", "perplexity"}
    result = str(tmp_path / "pretrained")
    encoder, guesser = AutoModel.from_pretrained(result), AutoModelForMaskedLM.from_pretrained(result)
    assert encoder.embeddings.word_embeddings.weight.equal(guesser.get_output_embeddings().weight)
    pq.write_table(make_rows(60), tmp_path / "labelled.parquet")
    raw = {
        "task": "text-classification",
        "model": result,
        "data": {"train": str(tmp_path / "labelled.parquet"), "validation": str(tmp_path / "labelled.parquet")},
        "output": str(tmp_path / "bundle"),
        "training": {"learning_rate": 1e-9, "epochs": 1},
    }
    train_alone(prepare_training(parse_spec(raw, FinetuneSpec, "spec"), "spec"), num_threads=1)
    started = AutoModel.from_pretrained(str(tmp_path / "bundle")).state_dict()
    kept = {name: weights for name, weights in encoder.state_dict().items() if "pooler" not in name}
    assert all(torch.allclose(started[name], weights, atol=1e-6) for name, weights in kept.items())


def test_next_sentences_are_learned_beside_hidden_tokens(tmp_path: Path, texts: dict[str, str]) -> None:
    model = {"config": {"model_type": "bert", **SIZES}, "tokenizer": {"vocab_size": 310}}
    spec = spec_of(tmp_path, texts, model).model_copy(update={"next_sentence": True})
    figures = pretrain(spec)
    assert figures.keys() == {"loss", "accuracy", "perplexity", "next_loss", "next_accuracy"}
    _, found = AutoModelForPreTraining.from_pretrained(str(tmp_path / "pretrained"), output_loading_info=True)
    assert not found["missing_keys"]
    AutoModelForMaskedLM.from_pretrained(str(tmp_path / "pretrained"))


@pytest.mark.parametrize("family", ["roberta", "distilbert", "albert"])
def test_a_family_that_never_had_next_sentences_is_refused(family: str, tmp_path: Path, texts: dict[str, str]) -> None:
    tokenizer = FAMILIES[family].tokenizer()
    tokenizer.add_special_tokens({"mask_token": tokenizer.unk_token})
    FAMILIES[family].network("AutoModel").save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    spec = spec_of(tmp_path, texts, str(tmp_path / "encoder")).model_copy(update={"next_sentence": True})
    with pytest.raises(ModelError, match=r"has no AutoModelForPreTraining head|cannot learn next_sentence"):
        prepare_training(spec.as_training(str(tmp_path / "encoder"), "s"), "s")


@pytest.mark.parametrize(
    ("model_type", "kind", "types"),
    [("bert", "wordpiece", True), ("roberta", "bpe", False), ("modernbert", "bpe", False)],
)
def test_from_scratch_with_a_tokenizer_of_its_own(
    model_type: str, kind: str, types: bool, tmp_path: Path, texts: dict[str, str]
) -> None:
    one_type = {"type_vocab_size": 1} if model_type == "roberta" else {}
    model = {"config": {"model_type": model_type, **SIZES, **one_type}, "tokenizer": {"kind": kind, "vocab_size": 310}}
    spec = spec_of(tmp_path, texts, model, epochs=3)
    assert isinstance(spec.model, ScratchConfig)
    figures = pretrain(spec)
    tokenizer = AutoTokenizer.from_pretrained(str(tmp_path / "pretrained"))
    encoder = AutoModel.from_pretrained(str(tmp_path / "pretrained"))
    assert encoder.config.vocab_size == len(tokenizer) <= 310
    assert figures["perplexity"] < 0.7 * len(tokenizer)
    assert tokenizer.convert_ids_to_tokens(tokenizer("the film")["input_ids"])[::3] == ["[CLS]", "[SEP]"]
    assert ("token_type_ids" in tokenizer("a", "b")) == types
    once = start_from_scratch(spec, spec.model, "spec")
    weights = Path(once) / "model.safetensors"
    written = weights.stat().st_mtime_ns
    assert start_from_scratch(spec, spec.model, "spec") == once
    assert weights.stat().st_mtime_ns == written


def test_writing_a_new_encoder_shows_no_bar_of_another_program(
    tmp_path: Path, texts: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    enable_progress_bar()  # as in a process of its own
    spec = spec_of(tmp_path, texts, {"config": {"model_type": "bert", **SIZES}})
    assert isinstance(spec.model, ScratchConfig)
    start_from_scratch(spec, spec.model, "spec")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "gpt2"}, "model.config.model_type: holds 'gpt2'"),
        ({}, "model.config.model_type: holds None"),
        ({"model_type": "bert", "hidden": 3}, "model.config.hidden: is no field of BertConfig"),
        ({"model_type": "bert", "vocab_size": 3}, "model.config.vocab_size: is the tokenizer's to say"),
        ({"model_type": "bert", "hidden_size": 30, "num_attention_heads": 4}, "model.config: The hidden size"),
        ({"model_type": "bert", "hidden_size": "32"}, "model.config: .*hidden_size"),
        ({"model_type": "bert", "num_hidden_layers": 0}, "model.config: has 0 layers; expected one or more"),
        ({"model_type": "bert", **SIZES, "max_position_embeddings": 8}, "model.config: has positions for 8 tokens"),
        (
            {"model_type": "modernvbert"},
            "model.config: 'ModernVBertConfig' object has no attribute 'num_hidden_layers'",
        ),
        ({"model_type": "bart"}, "model.config: a bart model has a decoder"),
        ({"model_type": "convbert"}, "model.config: a convbert model's results depend on the other texts"),
        ({"model_type": "xmod", **SIZES}, r"model\.config\.default_language: is missing; .* one of: en_XX"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(
    config: dict[str, Any], message: str, tmp_path: Path, texts: dict[str, str]
) -> None:
    spec = spec_of(tmp_path, texts, {"config": config})
    assert isinstance(spec.model, ScratchConfig)
    with pytest.raises(SpecError, match=message):
        start_from_scratch(spec, spec.model, "spec")
    assert not (tmp_path / "pretrained.work").exists()


def test_families_that_are_offered_are_not_refused_after_that(tmp_path: Path, texts: dict[str, str]) -> None:
    spec = spec_of(tmp_path, texts, {"config": {"model_type": "gpt2"}})
    assert isinstance(spec.model, ScratchConfig)
    with pytest.raises(SpecError, match="one of: ") as caught:
        start_from_scratch(spec, spec.model, "spec")
    offered = str(caught.value).rpartition("one of: ")[2].split(", ")
    assert {"bert", "roberta", "modernbert", "longformer", "luke"} <= set(offered)
    assert not {"bart", "mbart", "mvp", "funnel", "convbert", "fnet", "yoso", "modernvbert", "perceiver"} & set(offered)


@pytest.mark.parametrize(
    "fields",
    [
        {"model_type": "longformer", "attention_window": 16},
        {"model_type": "luke", "entity_vocab_size": 5, "entity_emb_size": 8},
        {"model_type": "xmod", "languages": ["en_XX"], "default_language": "en_XX"},
    ],
)
def test_families_with_outputs_of_their_own_are_pretrained(
    fields: dict[str, Any], tmp_path: Path, texts: dict[str, str]
) -> None:
    model = {"config": {**SIZES, **fields}, "tokenizer": {"vocab_size": 310}}
    assert pretrain(spec_of(tmp_path, texts, model, epochs=1)).keys() == {"loss", "accuracy", "perplexity"}


def test_an_encoder_without_a_mask_is_refused_before_anything_starts(tmp_path: Path, texts: dict[str, str]) -> None:
    FAMILIES["bert"].network("AutoModel").save_pretrained(tmp_path / "encoder")
    FAMILIES["bert"].tokenizer().save_pretrained(tmp_path / "encoder")
    with pytest.raises(ModelError, match="no mask token"):
        prepare_training(
            spec_of(tmp_path, texts, str(tmp_path / "encoder")).as_training(str(tmp_path / "encoder"), "s"), "s"
        )


def test_a_label_has_no_place(tmp_path: Path, texts: dict[str, str]) -> None:
    make_encoder(tmp_path / "encoder")
    spec = spec_of(tmp_path, texts, str(tmp_path / "encoder")).as_training(str(tmp_path / "encoder"), "spec")
    data = DataConfig(train=texts["train"], inputs={"text": "body"}, label="body")
    labelled = spec.model_copy(update={"data": data})
    with pytest.raises(CorpusError, match="takes no target"):
        prepare_training(labelled, "spec")


def test_fields_that_do_not_agree_are_refused(tmp_path: Path, texts: dict[str, str]) -> None:
    spec = spec_of(tmp_path, texts, "somewhere", keep_best="auto")
    assert spec.as_training("somewhere", "spec").training.keep_best == "auto"
    without = spec.model_copy(update={"data": spec.data.model_copy(update={"validation": None})})
    with pytest.raises(SpecError, match=r"give data\.validation"):
        without.as_training("somewhere", "spec")


def test_adapters_have_no_place_beside_random_weights(tmp_path: Path, texts: dict[str, str]) -> None:
    assert spec_of(tmp_path, texts, "somewhere", lora={}).training.lora is not None
    with pytest.raises(SpecError, match=r"training\.lora leaves the encoder's weights as they are, and a new encoder"):
        spec_of(tmp_path, texts, {"config": {"model_type": "bert", **SIZES}}, lora={})
