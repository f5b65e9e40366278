"""Every Python block of docs/cookbook.md, run on two nights of a real S3 server and held against their rows."""

from __future__ import annotations

import math
import random
import re
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import s3fs
import torch
from transformers import BertForSequenceClassification

from pipeline.analysis.run import analyse_duplicates
from pipeline.analysis.spec import DuplicatesSpec
from pipeline.inference.prepare import prepare_run
from pipeline.inference.spec import OutputConfig
from pipeline.output.export.night import export_night
from pipeline.output.export.request import parse_request
from pipeline.storage import Storage
from tests.flow import helpers
from tests.flow.s3_server import S3Server
from tests.tiny import LABELS, make_bundle, make_tokenizer, tiny_config
from tests.unit.analysis.embedded import walk_groups
from tests.unit.inference.nights import finish

PAGE = helpers.REPOSITORY / "docs" / "cookbook.md"
NIGHT, LAST_NIGHT, CLOSE = helpers.NIGHT, "2026-11-22", 0.9999
Rows = list[dict[str, Any]]


def blocks() -> Iterator[tuple[str, str]]:
    """(heading, code) of every Python block, in order; what is marked as not run is left out."""
    heading = ""
    for match in re.finditer(r"^#+ (?P<heading>[^\n]+)$|^```python\n(?P<code>.*?)^```$", PAGE.read_text(), re.M | re.S):
        if match["heading"]:
            heading = match["heading"]
        elif not match["code"].startswith("# not run"):
            yield heading, match["code"]


def undecided_network(directory: Path, seed: int) -> Any:
    """A random classifier that gives every label to some of the corpus's texts."""
    torch.manual_seed(seed)
    network = BertForSequenceClassification(tiny_config(LABELS)).eval()
    rng = random.Random(seed)
    texts = [helpers.random_text(rng) for _ in range(64)]
    tokens = make_tokenizer(directory)(texts, return_tensors="pt", padding=True, truncation=True, max_length=64)
    with torch.no_grad():
        network.classifier.bias -= network(**tokens).logits.mean(dim=0)
    return network


def make_other_tables(root: str, bundles: Path) -> dict[str, str]:
    """Tables of what is new and of what is there, of a corpus whose second file came with the second night."""
    tables = {"NEW": f"{root}/new", "SNAPSHOT": f"{root}/snapshot"}
    for num_files, night in enumerate((LAST_NIGHT, NIGHT), start=1):
        helpers.write_demo_corpus(f"{root}/growing", num_files=num_files)
        for kind in ({"uri": tables["NEW"], "select": "new"}, {"uri": tables["SNAPSHOT"], "mode": "snapshot"}):
            spec = helpers.score_spec(str(bundles / NIGHT), f"{root}/growing", kind["uri"])
            finish(prepare_run(spec.model_copy(update={"output": OutputConfig.model_validate(kind)}), night))
    return tables


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, s3_server: S3Server) -> tuple[dict[str, Any], Rows]:
    """What the page's first block names, here; and all rows of both nights, of which each had a model of its own."""
    directory = tmp_path_factory.mktemp("cookbook")
    root = f"s3://{s3_server.bucket}/{uuid.uuid4().hex}"
    helpers.write_demo_corpus(f"{root}/corpus", num_files=2)
    for seed, night in enumerate((LAST_NIGHT, NIGHT)):
        make_bundle(directory / night, LABELS, network=undecided_network(directory / f"tokens-{night}", seed))
        corpus = {"keep": ("id", "domain", "text")}
        spec = helpers.score_spec(str(directory / night), f"{root}/corpus", f"{root}/scores", corpus=corpus)
        output = OutputConfig(uri=f"{root}/scores", embedding=True)
        finish(prepare_run(spec.model_copy(update={"output": output}), night))  # no block asks for Ray
    export_night(parse_request(f"{root}/scores", NIGHT, f"{root}/plain"), Storage())
    duplicates = DuplicatesSpec(table=f"{root}/scores", output=f"{root}/duplicates", threshold=CLOSE)
    analyse_duplicates(duplicates, NIGHT)
    options = Storage().delta_options(root)
    s3fs.S3FileSystem.clear_instance_cache()
    named = {
        **make_other_tables(root, directory),
        "TABLE": f"{root}/scores",
        "EXPORT": f"{root}/plain",
        "DUPLICATES": duplicates.output,
        "NIGHT": NIGHT,
        "LAST_NIGHT": LAST_NIGHT,
        "ROW": "0-0",
    }
    return {**named, "BUNDLE": str(directory / NIGHT), "OPTIONS": options}, helpers.read_rows(f"{root}/scores")


def labels_by_domain(found: Any, night: Rows, both: Rows) -> None:
    expected = Counter((row["domain"], row["label"]) for row in night)
    assert {(row["domain"], row["label"]): row["rows"] for row in found.to_pylist()} == expected
    assert len(expected) > 2


def least_sure(found: Any, night: Rows, both: Rows) -> None:
    ordered = sorted(night, key=lambda row: (row["score"], row["source_file"], row["source_row"]))
    assert found["id"].to_list() == [row["id"] for row in ordered[:10]]


def described(found: Any, night: Rows, both: Rows) -> None:
    assert found["count"].to_dict() == Counter(row["label"] for row in night)
    assert found["max"].max() == pytest.approx(max(row["score"] for row in night))


def probabilities(found: Any, night: Rows, both: Rows) -> None:
    of = {row["id"]: row for row in night}
    assert len(found) == len(night)
    for row in found.to_pylist():
        assert row[of[row["id"]]["label"]] == of[row["id"]]["score"]


def reasons(found: Any, night: Rows, both: Rows) -> None:
    assert {row["reason"]: row["rows"] for row in found.to_pylist()} == {"text is blank": 2, "text is null": 2}


def shares(found: Any, night: Rows, both: Rows) -> None:
    rows = found.to_pylist()
    counts = Counter((row["run_date"], row["label"]) for row in both)
    assert len({row["run_date"] for row in rows}) == 2
    for row in rows:
        assert row["share"] == pytest.approx(counts[row["run_date"], row["label"]] / len(night))


def flips(found: Any, night: Rows, both: Rows) -> None:
    pairs: dict[str, list[str]] = {}
    for row in both:  # the earlier night first
        pairs.setdefault(row["id"], []).append(row["label"])
    expected = sorted((key, *labels) for key, labels in pairs.items() if labels[0] != labels[1])
    assert [(row["id"], row["before"], row["now"]) for row in found.to_pylist()] == expected
    assert expected


def models(found: Any, night: Rows, both: Rows) -> None:
    pairs: dict[str, list[dict[str, Any]]] = {}
    for row in both:
        pairs.setdefault(row["id"], []).append(row)
    expected = Counter(
        tuple(row[name] for name in ("model_version", "label") for row in pair) for pair in pairs.values()
    )
    names = ("before", "now", "label_before", "label_now")
    assert {tuple(row[name] for name in names): row["rows"] for row in found.to_pylist()} == expected
    shifts = sum(row["score_shift"] * row["rows"] for row in found.to_pylist())
    assert shifts == pytest.approx(sum(new["score"] - old["score"] for old, new in pairs.values()), abs=1e-3)
    assert len({row["now"] for row in found.to_pylist()} | {row["before"] for row in found.to_pylist()}) == 2


def newest(found: Any, night: Rows, both: Rows) -> None:
    expected = sorted((row["id"], row["label"]) for row in night)
    assert [(row["id"], row["label"]) for row in found.to_pylist()] == expected


def first_version(found: Any, night: Rows, both: Rows) -> None:
    assert [(str(row["run_date"]), row["rows"]) for row in found.to_pylist()] == [(LAST_NIGHT, len(night))]


def current(found: Any, night: Rows, both: Rows) -> None:
    expected = sorted((row["id"], row["label"]) for row in night)
    assert sorted((row["id"], row["label"]) for row in found.to_pylist()) == expected
    assert len({row["run_date"] for row in found.to_pylist()}) == 2


def current_labels(found: Any, night: Rows, both: Rows) -> None:
    assert dict(found.iter_rows()) == Counter(row["label"] for row in night)


def whole(found: Any, night: Rows, both: Rows) -> None:
    assert found == len(night)


def first_file(found: Any, night: Rows, both: Rows) -> None:
    assert found == sum(row["id"].startswith("0-") for row in night)


def _cosine(one: list[float], other: list[float]) -> float:
    scale = math.sqrt(sum(x * x for x in one) * sum(x * x for x in other))
    return sum(x * y for x, y in zip(one, other, strict=True)) / scale


def neighbours(found: Any, night: Rows, both: Rows) -> None:
    (query,) = (row["embedding"] for row in night if row["id"] == "0-0")
    best = sorted((_cosine(query, row["embedding"]) for row in night), reverse=True)[:5]
    assert [row["cosine"] for row in found.to_pylist()] == pytest.approx(best, abs=1e-5)
    assert found["id"][0].as_py() == "0-0"


def matrix(found: Any, night: Rows, both: Rows) -> None:
    assert found.shape == (len(night), len(night[0]["embedding"]))
    assert sorted(found[:, 0].tolist()) == sorted(row["embedding"][0] for row in night)


def duplicates(found: Any, night: Rows, both: Rows) -> None:
    of = {row["id"]: row for row in night}
    for row in found.to_pylist():
        assert _cosine(of[row["one"]]["embedding"], of[row["other"]]["embedding"]) > 0.9998
        assert of[row["one"]]["domain"] == of[row["other"]]["domain"]
    assert len(found) == len({(row["one"], row["other"]) for row in found.to_pylist()})


def once(found: Any, night: Rows, both: Rows) -> None:
    vectors = np.array([row["embedding"] for row in night])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    near = vectors @ vectors.T >= CLOSE
    firsts = {night[min(group)]["id"] for group in walk_groups(near)}  # rows are in the order of their source
    assert sorted(found["id"].to_list()) == sorted(firsts)
    assert len(firsts) < len(night)


def texts(found: Any, night: Rows, both: Rows) -> None:
    assert Counter(found) == Counter((row["text"], row["label"]) for row in night if row["score"] > 0.4)
    assert found


CHECKS: dict[str, Callable[[Any, Rows, Rows], None]] = {
    "DuckDB: labels by a kept column": labels_by_domain,
    "Polars: the rows the model is least sure of": least_sure,
    "pandas: a small table for a notebook": described,
    "Probabilities of all classes": probabilities,
    "What could not be scored, and why": reasons,
    "Shares of labels over nights": shares,
    "Which rows changed their label": flips,
    "Two models side by side": models,
    "The newest scores of every row": newest,
    "The table as it was": first_version,
    "With `select: new`, in DuckDB": current,
    "With `select: new`, in Polars": current_labels,
    "A snapshot": whole,
    "A snapshot as a night left it": first_file,
    "Nearest neighbours in SQL": neighbours,
    "As one matrix": matrix,
    "Near-duplicates": duplicates,
    "Each group of near-duplicates once": once,
    "Back to the corpus": texts,
}


def test_every_block_runs_and_finds_what_is_there(places: tuple[dict[str, Any], Rows]) -> None:
    names, both = places
    night = [row for row in both if str(row["run_date"]) == NIGHT]
    assert len(night) == 596
    (_, settings), *recipes = blocks()
    compile(settings, str(PAGE), "exec")
    values: dict[str, Any] = {}
    for heading, code in recipes:
        exec(compile(code, f"{PAGE}: {heading}", "exec"), names)
        values[heading] = names.pop("found")
    assert values.pop("Open it") == values.pop("The live files") == len(night)
    assert values.pop("PyArrow: a night larger than memory") == sum(row["num_tokens"] for row in night)
    assert dict(values.pop("An export").iter_rows()) == Counter(row["label"] for row in night)
    assert values.keys() == CHECKS.keys()
    for heading, found in values.items():
        CHECKS[heading](found, night, both)


def test_the_rest_of_the_page_says_that_it_is_not_run() -> None:
    marked = re.findall(r"^```(?:python\n# not run|sql\n-- not run)$", PAGE.read_text(), re.M)
    assert len(marked) == PAGE.read_text().count("```sql") + 2
