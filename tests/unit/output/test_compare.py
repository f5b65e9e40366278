from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from pipeline.errors import CorpusError
from pipeline.output.compact import compact_night
from pipeline.output.compare import Closeness, ComparedColumns, NumberShift, choose_columns, compare_nights
from pipeline.output.matching import NotCompared
from pipeline.output.nights import read_night
from pipeline.storage import Storage
from tests.tiny import make_bundle
from tests.unit.inference.nights import Story
from tests.unit.output.scored import NEXT_NIGHT, NIGHT, SCHEMA, Row, publish, scored_row, write_shard

STORAGE = Storage()


def make_nights(table: Path, first: list[list[Row]], second: list[list[Row]]) -> None:
    """Each night in as many files as there are lists."""
    for night, files in ((NIGHT, first), (NEXT_NIGHT, second)):
        publish(table, night, *(write_shard(table, night, f"s{i}", rows) for i, rows in enumerate(files)))


def test_columns_are_chosen_by_name_and_type() -> None:
    assert choose_columns(SCHEMA) == ComparedColumns(("label",), ("score", "class_scores"), ("embedding",))
    several = pa.schema(
        [
            ("mood_label", pa.string()),
            ("topic_labels", pa.list_(pa.string())),
            ("mood_score", pa.float32()),
            ("mood_embedding", pa.list_(pa.float32())),
            ("label", pa.int64()),
            ("answer", pa.string()),
            ("num_tokens", pa.int32()),
        ]
    )
    assert choose_columns(several) == ComparedColumns(
        ("mood_label", "topic_labels"), ("mood_score",), ("mood_embedding",)
    )


def test_a_night_equals_itself_however_its_rows_lie(tmp_path: Path) -> None:
    rows = [scored_row(f"f{i % 3}", i) for i in range(60)]
    shuffled = random.Random(0).sample(rows, len(rows))
    make_nights(tmp_path, [rows[:20], rows[20:]], [shuffled[:7], shuffled[7:9], shuffled[9:]])
    found = compare_nights(str(tmp_path), NIGHT, NEXT_NIGHT, STORAGE)
    assert (found.num_rows_first, found.num_rows_second, found.num_rows_both, found.num_rows_unchanged) == (60,) * 4
    assert (found.num_rows_only_first, found.num_rows_only_second) == (0, 0)
    assert found.labels[0].flips == ()
    assert found.numbers == (NumberShift("score", 60, 0.0, 0.0), NumberShift("class_scores", 120, 0.0, 0.0))
    assert found.vectors[0].num_rows == 60
    assert found.vectors[0].min_cosine == pytest.approx(1)


def test_what_changed_is_counted(tmp_path: Path) -> None:
    first = [scored_row("f", i, label="a", score=0.5, embedding=[1.0, 0.0]) for i in range(10)]
    second = [dict(row) for row in first[2:]] + [scored_row("f", 20), scored_row("g", 0), scored_row("g", 1)]
    second[0].update(label="b", score=0.75)
    second[1].update(label="b")
    second[2].update(label=None)
    second[3].update(embedding=[0.0, 2.0])
    second[4].update(score=0.25)
    make_nights(tmp_path, [first], [second])
    found = compare_nights(str(tmp_path), NIGHT, NEXT_NIGHT, STORAGE)
    assert (found.num_rows_first, found.num_rows_second) == (10, 11)
    assert (found.num_rows_only_first, found.num_rows_only_second, found.num_rows_both) == (2, 3, 8)
    assert found.num_rows_unchanged == 3
    (labels,) = found.labels
    assert (labels.column, labels.num_changed_rows) == ("label", 3)
    assert labels.flips == (("a", "b", 2), ("a", None, 1))
    assert found.numbers[0] == NumberShift("score", 8, pytest.approx(0.5 / 8), 0.25)
    assert found.vectors == (Closeness("embedding", 8, pytest.approx(7 / 8), pytest.approx(0.0)),)


def test_numbers_and_vectors_that_cannot_be_compared_are_left_out_and_count_as_changed(tmp_path: Path) -> None:
    kinds = [
        ({"score": None}, {"score": None}),  # unchanged
        ({"score": float("nan")}, {"score": float("nan")}),  # unchanged
        ({"score": None}, {"score": 0.5}),
        ({"embedding": [1.0, 2.0]}, {"embedding": [1.0, 2.0, 3.0]}),
        ({"embedding": None}, {"embedding": [1.0, 2.0, 3.0]}),
        ({"embedding": None}, {"embedding": None}),  # unchanged
        ({}, {}),  # unchanged
    ]
    sides = [[scored_row("f", i, **kind[side]) for i, kind in enumerate(kinds)] for side in (0, 1)]
    make_nights(tmp_path, [sides[0]], [sides[1]])
    found = compare_nights(str(tmp_path), NIGHT, NEXT_NIGHT, STORAGE)
    assert (found.num_rows_both, found.num_rows_unchanged) == (7, 4)
    assert found.numbers[0] == NumberShift("score", 4, 0.0, 0.0)
    assert found.vectors[0].num_rows == 4


def test_lists_are_compared_number_by_number_whatever_their_lengths(tmp_path: Path) -> None:
    lists = [[1.0, 2.0], [3.0], None, [], [None, float("nan")]]
    others = [[1.0, 2.5], [3.0, 4.0], [], None, [None]]
    first = [scored_row("f", i, class_scores=values) for i, values in enumerate([*lists, *lists])]
    second = [scored_row("f", i, class_scores=values) for i, values in enumerate([*lists, *others])]
    make_nights(tmp_path, [first], [second])
    found = compare_nights(str(tmp_path), NIGHT, NEXT_NIGHT, STORAGE)
    assert (found.num_rows_both, found.num_rows_unchanged) == (10, 5)
    assert found.numbers[1] == NumberShift("class_scores", 5, 0.1, 0.5)


def test_vectors_of_several_widths_are_all_compared(tmp_path: Path) -> None:
    vectors = [([3.0, 4.0], [4.0, 3.0]), ([1.0], [-2.0]), ([0.0, 0.0], [1.0, 0.0]), ([], [])]
    sides = [[scored_row("f", i, embedding=pair[side]) for i, pair in enumerate(vectors)] for side in (0, 1)]
    make_nights(tmp_path, [sides[0]], [sides[1]])
    found = compare_nights(str(tmp_path), NIGHT, NEXT_NIGHT, STORAGE)
    assert found.vectors == (Closeness("embedding", 2, pytest.approx((0.96 - 1) / 2), pytest.approx(-1.0)),)
    assert found.num_rows_unchanged == 1


def test_nights_without_a_row_in_common(tmp_path: Path) -> None:
    make_nights(tmp_path, [[scored_row("f", 0), scored_row("f", 2)]], [[scored_row("f", 1)]])
    found = compare_nights(str(tmp_path), NIGHT, NEXT_NIGHT, STORAGE)
    assert (found.num_rows_only_first, found.num_rows_only_second, found.num_rows_both) == (2, 1, 0)
    assert found.numbers[0] == NumberShift("score", 0, None, None)
    assert found.vectors == (Closeness("embedding", 0, None, None),)


def test_the_same_is_found_as_by_comparing_everything_at_once(tmp_path: Path) -> None:
    draw = random.Random(1)
    keys = [(f"f{draw.randint(0, 4)}", row) for row in range(400)]
    sides: list[dict[tuple[str, int], Row]] = []
    for _ in range(2):
        chosen = draw.sample(keys, 330)
        sides.append(
            {
                key: scored_row(*key, label=draw.choice("ab"), score=draw.random(), embedding=[draw.random(), 1.0])
                for key in chosen
            }
        )
    files = [[list(side.values())[start : start + 50] for start in range(0, 330, 50)] for side in sides]
    make_nights(tmp_path, files[0], files[1])
    compact_night(str(tmp_path), NEXT_NIGHT, 8_000, STORAGE)
    found = compare_nights(str(tmp_path), NIGHT, NEXT_NIGHT, STORAGE)

    both = sorted(sides[0].keys() & sides[1].keys())
    pairs = [(sides[0][key], sides[1][key]) for key in both]
    shifts = [abs(np.float32(before["score"]) - np.float32(after["score"])) for before, after in pairs]
    assert found.num_rows_both == len(both)
    assert found.num_rows_only_first == found.num_rows_only_second == 330 - len(both)
    assert found.labels[0].num_changed_rows == sum(before["label"] != after["label"] for before, after in pairs)
    assert found.numbers[0].mean_absolute == pytest.approx(np.mean(shifts), rel=1e-5)
    assert found.numbers[0].max_absolute == pytest.approx(max(shifts))


@pytest.mark.parametrize("output", [{}, {"select": "new"}, {"mode": "snapshot"}])
def test_a_file_in_another_order_flips_no_label(tmp_path: Path, bundle_directory: Path, output: dict[str, str]) -> None:
    story = Story(tmp_path, bundle_directory, output)
    for seed, name in enumerate("ab"):
        story.put(name, 6, seed)
    story.night(NIGHT)
    path = story.corpus / "b.parquet"
    pq.write_table(pq.read_table(path).take(list(range(6))[::-1]), path)
    story.night(NEXT_NIGHT)
    found = compare_nights(str(story.table), NIGHT, NEXT_NIGHT, STORAGE)
    num_compared = 0 if output == {"select": "new"} else 6
    assert (found.num_rows_both, found.num_rows_unchanged) == (num_compared, num_compared)
    assert (found.labels[0].num_changed_rows, found.not_compared) == (0, NotCompared(6, 1, 0, 0))
    assert (found.num_rows_only_first, found.num_rows_only_second) == (6 - num_compared, 0)


@pytest.mark.parametrize("bundle", ["same", "other"])
def test_files_that_a_night_of_what_is_new_scores_again_as_they_were_are_compared(
    tmp_path: Path, bundle_directory: Path, bundle: str
) -> None:
    story = Story(tmp_path, bundle_directory, {"select": "new"})
    story.put("a", 6, 0)
    story.night(NIGHT)
    if bundle == "other":
        story.bundle = tmp_path / "other"
        make_bundle(story.bundle, seed=1)
    story.night(NEXT_NIGHT, rescore=bundle == "same")
    found = compare_nights(str(story.table), NIGHT, NEXT_NIGHT, STORAGE)
    assert (found.num_rows_both, found.not_compared) == (6, NotCompared())


def test_of_files_that_share_a_shard_those_that_were_rewritten_and_unknown_ones_are_left_out(tmp_path: Path) -> None:
    etags: dict[str, dict[str, str | None]] = {NIGHT: {"h": None}, NEXT_NIGHT: {"g": "v2", "i": None}}
    for night, label in ((NIGHT, "a"), (NEXT_NIGHT, "b")):
        rows = [scored_row(file, row, label=label) for file in "fghi" for row in range(3)]
        publish(tmp_path, night, write_shard(tmp_path, night, "s0", rows), etags=etags[night])
    found = compare_nights(str(tmp_path), NIGHT, NEXT_NIGHT, STORAGE)
    assert (found.num_rows_both, found.labels[0].num_changed_rows) == (3, 3)
    assert found.not_compared == NotCompared(3, 1, 6, 2)
    assert found.not_compared.sentences == [
        "3 rows of 1 rewritten files are not compared",
        "6 rows of 2 files are not compared: no manifest tells their etags on both nights",
    ]


def test_a_manifest_that_is_older_than_its_nights_rows_tells_no_etags(tmp_path: Path) -> None:
    make_nights(tmp_path, [[scored_row("f", 0)]], [[scored_row("f", 0)]])
    publish(tmp_path, NEXT_NIGHT, write_shard(tmp_path, NEXT_NIGHT, "again", [scored_row("f", 0)]), run_id="killed")
    assert compare_nights(str(tmp_path), NIGHT, NEXT_NIGHT, STORAGE).num_rows_both == 1
    (tmp_path / "_manifests" / f"run_date={NEXT_NIGHT}" / "killed.json").unlink()
    found = compare_nights(str(tmp_path), NIGHT, NEXT_NIGHT, STORAGE)
    assert (found.num_rows_both, found.not_compared) == (0, NotCompared(0, 0, 1, 1))


@pytest.fixture
def snapshot(tmp_path: Path, bundle_directory: Path) -> Story:
    """Two nights of three files; on the second one of them is another."""
    story = Story(tmp_path, bundle_directory, {"mode": "snapshot", "vanished": "keep"})
    for seed, name in enumerate("abc"):
        story.put(name, 4, seed)
    story.night(NIGHT)
    story.put("b", 4, 9)
    story.night(NEXT_NIGHT)
    return story


def test_nights_of_a_snapshot_are_the_whole_table_as_each_left_it(snapshot: Story) -> None:
    found = compare_nights(str(snapshot.table), NIGHT, NEXT_NIGHT, STORAGE)
    assert (found.num_rows_first, found.num_rows_second, found.num_rows_both) == (12, 12, 8)
    assert (found.num_rows_only_first, found.num_rows_only_second) == (0, 0)
    assert (found.num_rows_unchanged, found.not_compared) == (8, NotCompared(4, 1, 0, 0))
    assert found.numbers[0].num_values == 8


def test_rows_that_a_snapshot_keeps_do_not_hide_a_column_they_lack(snapshot: Story) -> None:
    snapshot.remove("a")
    snapshot.blocks = {"corpus": {"keep": ["id", "weight"]}}
    for name in "bc":
        path = snapshot.corpus / f"{name}.parquet"
        pq.write_table(pq.read_table(path).append_column("weight", pa.array([0.5] * 4)), path)
    snapshot.night("2026-11-25")
    path = snapshot.corpus / "c.parquet"
    pq.write_table(pq.read_table(path).drop_columns("weight").append_column("weight", pa.array([0.75] * 4)), path)
    snapshot.night("2026-11-26")
    found = compare_nights(str(snapshot.table), "2026-11-25", "2026-11-26", STORAGE)
    assert (found.num_rows_both, found.not_compared) == (8, NotCompared(4, 1, 0, 0))
    assert NumberShift("weight", 4, 0.0, 0.0) in found.numbers
    before = compare_nights(str(snapshot.table), NEXT_NIGHT, "2026-11-26", STORAGE)
    assert "weight" not in [shift.column for shift in before.numbers], "the first of these nights has it nowhere"


def test_nights_of_a_snapshot_stand_though_their_parts_were_vacuumed(tmp_path: Path, bundle_directory: Path) -> None:
    story = Story(tmp_path, bundle_directory, {"mode": "snapshot"})
    story.put("a", 40, 0)
    story.split("a")
    story.night(NIGHT)
    before = read_night(str(story.table), NIGHT, STORAGE)
    story.compact_and_vacuum(NIGHT)
    assert not any((story.table / file.path).exists() for file in before.files)
    alone = read_night(str(story.table), NIGHT, STORAGE)
    assert ({file.path for file in alone.files}, alone.num_rows) == (story.live(), 40)
    story.put("a", 40, 9)
    story.night(NEXT_NIGHT)
    assert read_night(str(story.table), NIGHT, STORAGE).files == alone.files
    found = compare_nights(str(story.table), NIGHT, NEXT_NIGHT, STORAGE)
    assert (found.num_rows_first, found.num_rows_second, found.not_compared.num_rewritten_rows) == (40, 40, 40)


def test_rows_that_a_snapshot_keeps_are_compared_while_they_stand_in_the_same_file(snapshot: Story) -> None:
    snapshot.remove("a")
    snapshot.night("2026-11-25")
    found = compare_nights(str(snapshot.table), NEXT_NIGHT, "2026-11-25", STORAGE)
    assert (found.num_rows_unchanged, found.not_compared) == (12, NotCompared())


def test_a_snapshot_whose_files_or_version_are_gone_is_refused(snapshot: Story) -> None:
    gone = [
        path
        for path in snapshot.table.glob("run_date=*/*.parquet")
        if str(path.relative_to(snapshot.table)) not in snapshot.live()
    ]
    gone[0].unlink()
    with pytest.raises(CorpusError, match=f"1 files of the snapshot that run_date={NIGHT} left are gone"):
        compare_nights(str(snapshot.table), NIGHT, NEXT_NIGHT, STORAGE)
    DeltaTable(snapshot.table).create_checkpoint()
    for path in (snapshot.table / "_delta_log").glob("*.json"):
        if int(path.stem) < DeltaTable(snapshot.table).version():
            path.unlink()
    with pytest.raises(CorpusError, match=f"which run_date={NIGHT} left, cannot be opened: ") as caught:
        compare_nights(str(snapshot.table), NIGHT, NEXT_NIGHT, STORAGE)
    assert "take a later night" in caught.value.remedy


@pytest.mark.parametrize("nights", [(NIGHT, "2026-11-30"), ("2026-11-30", NIGHT)])
def test_a_night_that_is_not_there_is_named(tmp_path: Path, nights: tuple[str, str]) -> None:
    make_nights(tmp_path, [[scored_row("f", 0)]], [[scored_row("f", 0)]])
    with pytest.raises(CorpusError, match="no night 2026-11-30"):
        compare_nights(str(tmp_path), *nights, STORAGE)
