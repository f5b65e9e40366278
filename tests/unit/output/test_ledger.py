from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import pytest

from pipeline.errors import AccountingError
from pipeline.output.ledger import Ledger, parse_record, records_from
from pipeline.storage import Storage
from tests.unit.output.records import done_record

NIGHT = "2026-11-23"


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(str(tmp_path / "table"), NIGHT, "f" * 64, Storage())


def test_the_first_claim_stands(ledger: Ledger) -> None:
    first, second = done_record(run_id="run-1"), done_record(run_id="run-2", num_tokens=71)
    assert ledger.claim(first) == first
    assert ledger.claim(second) == first
    assert ledger.read(["shard-a"]) == {"shard-a": first}


def test_of_many_racing_claims_one_stands_for_all(ledger: Ledger) -> None:
    attempts = [done_record(run_id=f"run-{number}") for number in range(12)]
    barrier = Barrier(len(attempts))

    def claim(number: int) -> str:
        barrier.wait(timeout=30)
        return ledger.claim(attempts[number]).run_id

    with ThreadPoolExecutor(len(attempts)) as pool:
        standing = set(pool.map(claim, range(len(attempts))))
    assert standing == {ledger.read(["shard-a"])["shard-a"].run_id}


def test_names_are_those_that_have_a_record(ledger: Ledger) -> None:
    assert ledger.names() == set()
    for name in ("b", "a"):
        ledger.claim(done_record(name))
    Path(ledger.root, ".half-written.tmp").write_text("")
    Path(ledger.root, ".c.json").write_text("")
    assert ledger.names() == {"a", "b"}


def test_reading_leaves_out_what_is_not_there(ledger: Ledger) -> None:
    records = {name: done_record(name) for name in ("a", "b", "c")}
    for record in records.values():
        ledger.claim(record)
    assert ledger.read(["c", "x", "a"]) == {"c": records["c"], "a": records["a"]}
    assert ledger.read([]) == {}


def test_dropped_records_may_be_claimed_anew(ledger: Ledger) -> None:
    ledger.claim(done_record("a", run_id="old"))
    ledger.claim(done_record("b"))
    ledger.drop(["a", "never there"])
    assert ledger.names() == {"b"}
    assert ledger.claim(done_record("a", run_id="new")).run_id == "new"


@pytest.mark.parametrize("change", [{"run_date": "2026-11-24"}, {"fingerprint": "e" * 64}])
def test_nights_and_fingerprints_have_records_of_their_own(ledger: Ledger, change: dict[str, str]) -> None:
    ledger.claim(done_record("a"))
    assert replace(ledger, **change).names() == set()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"shard": "a"}', '"text"'])
def test_what_is_no_record_is_an_accounting_error(ledger: Ledger, text: str) -> None:
    path = Path(ledger.root, "broken.json")
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(AccountingError, match=r"broken\.json: not a done-record") as caught:
        ledger.read(["broken"])
    assert "scored again" in caught.value.remedy
    with pytest.raises(AccountingError, match=r"broken\.json: not a done-record"):
        ledger.claim(done_record("broken"))


def test_a_receipt_carries_its_record_in_less_than_a_kilobyte() -> None:
    record = done_record("f" * 32, path="p" * 100, quarantine_path="q" * 100)
    receipt = record.to_table()
    assert records_from(receipt) == [record]
    assert receipt.nbytes < 2_048


def test_a_record_of_a_later_version_with_more_fields_is_read() -> None:
    text = done_record().to_table()["record"][0].as_py()
    assert parse_record(text[:-1] + ', "new_field": 1}', "receipt") == done_record()


def test_a_record_accounts_for_scored_and_quarantined_rows() -> None:
    assert done_record(num_scored_rows=7, num_quarantined_rows=3).num_rows == 10
