"""Which bundles tokenise and run together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers.models.bert.modeling_bert import BertEmbeddings

from pipeline.config import ComputeConfig, ScoringCompute
from pipeline.corpus.reader import input_column
from pipeline.encoder.attention import Runtime
from pipeline.encoder.batching import BatchBudget
from pipeline.encoder.bundle import BundleInfo
from pipeline.inference import predictor
from pipeline.inference.predictor import Prediction, load_predictor
from pipeline.inference.source import ModelSource, TextSource, token_groups
from pipeline.storage import Storage
from tests.tiny import make_rows
from tests.unit.inference.bundles import make_network, write, write_family

TEXT, PAIR = TextSource(("text",)), TextSource(("text", "title"))
TEXTS = make_rows(30)["text"].to_pylist()
CPU = ComputeConfig(device="cpu", precision="fp32", batch_tokens=100_000)


def info(task: str = "text-classification", tokenizer: str = "t", **fields: Any) -> BundleInfo:
    known: dict[str, Any] = {
        "files": {"tokenizer.json": tokenizer, "model.safetensors": str(fields)},
        "inputs": {},
        "base_model": "b",
        "data_fingerprint": "",
        "run_fingerprint": "",
        "metrics": {},
    }
    return BundleInfo(task=task, **{**known, **fields})


def groups(texts: TextSource = TEXT, /, **infos: BundleInfo) -> list[list[str]]:
    return token_groups(infos, dict.fromkeys(infos, texts))


def test_bundles_that_tokenise_alike_are_one_group_whatever_their_task_and_pooling() -> None:
    found = groups(
        tone=info(), names=info("token-classification"), search=info("embedding", pooling="cls", normalize=False)
    )
    assert found == [["tone", "names", "search"]]


@pytest.mark.parametrize(
    "other",
    [
        info(max_length=64),
        info(tokenizer="u"),
        info(long_text="window"),
        info(files={"tokenizer.json": "t", "tokenizer_config.json": "x"}),
        info(files={"tokenizer.json": "t", "vocab.txt": "x"}),
    ],
)
def test_another_tokenizer_length_or_policy_is_another_group(other: BundleInfo) -> None:
    assert groups(one=info(), other=other, again=info()) == [["one", "again"], ["other"]]


def test_windows_of_another_stride_are_another_group() -> None:
    one, other = info(long_text="window", stride=4), info(long_text="window", stride=8)
    assert groups(one=one, other=other) == [["one"], ["other"]]


def test_other_columns_or_words_are_another_group() -> None:
    texts = {"one": TEXT, "other": TextSource(("title",)), "words": TextSource(("text",), are_words=True)}
    assert token_groups(dict.fromkeys(texts, info()), texts) == [["one"], ["other"], ["words"]]


def test_a_question_is_cut_otherwise_than_a_pair() -> None:
    pair = {name: info("pair-classification", long_text="window") for name in ("one", "other")}
    asked = info("question-answering", long_text="window")
    assert groups(PAIR, **pair, asked=asked) == [["one", "other"], ["asked"]]


def load(uris: dict[str, str], texts: dict[str, TextSource] | None = None) -> Any:
    return load_predictor(ModelSource(uris, texts or dict.fromkeys(uris, TEXT), CPU, 1, Storage()))


def rows_of(**columns: list[str]) -> pa.Table:
    return pa.table({input_column(name): pa.array(values, pa.large_string()) for name, values in columns.items()})


def test_a_worker_has_the_threads_it_was_given(bundle_directory: Path) -> None:
    before = torch.get_num_threads(), pa.cpu_count()
    source = ModelSource({"": str(bundle_directory)}, {"": TEXT}, CPU, 3, Storage())
    try:
        load_predictor(source)
        assert (torch.get_num_threads(), pa.cpu_count()) == (3, 3)
    finally:
        torch.set_num_threads(before[0])
        pa.set_cpu_count(before[1])


@pytest.mark.parametrize(("device", "num_workers", "expected"), [("cuda", 4, [0.25]), ("cuda", 1, []), ("cpu", 4, [])])
def test_workers_that_share_a_gpu_share_its_memory(
    device: str, num_workers: int, expected: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: list[float] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", shares.append)
    runtime = Runtime(torch.device(device), None, BatchBudget(10, 10))
    predictor._share_gpu(ScoringCompute(workers_per_gpu=num_workers), runtime)
    assert shares == expected


def assert_same(left: Prediction, right: Prediction) -> None:
    np.testing.assert_allclose(left.outputs.logits, right.outputs.logits, atol=1e-5)
    np.testing.assert_allclose(left.outputs.embeddings, right.outputs.embeddings, atol=1e-5)
    assert left.outputs.finite.tolist() == right.outputs.finite.tolist()
    assert left.examples.tokens.ids.tolist() == right.examples.tokens.ids.tolist()


class Passes:
    """Counts the encoder's forward passes, each of which embeds its tokens once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        plain = BertEmbeddings.forward

        def counted(network: Any, *inputs: Any, **options: Any) -> Any:
            self.count += 1
            return plain(network, *inputs, **options)

        monkeypatch.setattr(BertEmbeddings, "forward", counted)


def test_bundles_on_one_encoder_take_one_forward_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uris = write_family(tmp_path)
    rows, texts = rows_of(text=TEXTS), dict.fromkeys(uris, TEXT)
    passes = Passes(monkeypatch)
    together = load(uris).predict(rows, texts)
    assert passes.count == 2  # one for the three that share an encoder, one for the stranger
    assert together.keys() == uris.keys()
    assert len({id(prediction.examples) for prediction in together.values()}) == 1
    for name, uri in uris.items():
        assert_same(together[name], load({name: uri}).predict(rows, texts)[name])
    assert passes.count == 2 + len(uris)


@pytest.mark.parametrize("turned", [False, True])
def test_bundles_on_one_encoder_are_found_in_any_order(tmp_path: Path, turned: bool) -> None:
    uris = write_family(tmp_path)
    if turned:
        uris = dict(reversed(uris.items()))
    rows, texts = rows_of(text=TEXTS), dict.fromkeys(uris, TEXT)
    together = load(uris).predict(rows, texts)
    for name, uri in uris.items():
        assert_same(together[name], load({name: uri}).predict(rows, texts)[name])


def test_bundles_with_poolers_of_their_own_keep_them(tmp_path: Path) -> None:
    """Tags need no pooler, so they could share an encoder with either of two bundles whose poolers differ."""
    other = make_network("text-classification")
    with torch.no_grad():
        other.bert.pooler.dense.weight.neg_()
    write(tmp_path / "names", "token-classification")
    write(tmp_path / "tone", "text-classification")
    write(tmp_path / "mood", "text-classification", network=other)
    uris = {name: str(tmp_path / name) for name in ("names", "tone", "mood")}
    rows, texts = rows_of(text=TEXTS), dict.fromkeys(uris, TEXT)
    together = load(uris).predict(rows, texts)
    for name, uri in uris.items():
        assert_same(together[name], load({name: uri}).predict(rows, texts)[name])


def test_bundles_may_read_other_columns_and_other_lengths(tmp_path: Path) -> None:
    write(tmp_path / "pair", "pair-classification", max_length=20)
    write(tmp_path / "asked", "question-answering", max_length=20, stride=4)
    write(tmp_path / "tone", "text-classification", max_length=16)
    write(tmp_path / "long", "embedding", long_text="window", max_length=10, stride=2)
    texts = {"pair": PAIR, "asked": TextSource(("title", "text")), "tone": TEXT, "long": TEXT}
    uris = {name: str(tmp_path / name) for name in texts}
    rows = rows_of(text=TEXTS, title=list(reversed(TEXTS)))
    together = load(uris, texts).predict(rows, texts)
    for name, uri in uris.items():
        alone = load({name: uri}, {name: texts[name]}).predict(rows, texts)[name]
        assert_same(together[name], alone)
    assert together["long"].examples.tokens.row_windows.max() > 1


def test_no_rows_give_no_predictions(tmp_path: Path) -> None:
    uris = write_family(tmp_path)
    found = load(uris).predict(rows_of(text=[]), dict.fromkeys(uris, TEXT))
    assert {name: len(prediction.outputs.embeddings) for name, prediction in found.items()} == dict.fromkeys(uris, 0)
