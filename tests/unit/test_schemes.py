from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from pipeline.errors import InputError
from pipeline.inference.prepare import prepare_run
from pipeline.inference.spec import ScoreSpec
from pipeline.output.history import read_nights
from pipeline.schemes import open_fsspec
from pipeline.storage import Storage
from tests.tiny import write_corpus
from tests.unit.inference.scoring import NIGHT, score_spec


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = fsspec.filesystem

    def lacks(scheme: str) -> object:
        if scheme == "file":
            return opened(scheme)
        if scheme in ("gs", "az"):
            raise ImportError(f"Please install something to access {scheme}")
        if scheme == "needy":
            raise TypeError("NeedyFileSystem.__init__() missing 1 required positional argument: 'host'")
        raise ValueError(f"Protocol not known: {scheme}")

    monkeypatch.setattr("pipeline.schemes.fsspec.filesystem", lacks)


@pytest.mark.parametrize(
    ("scheme", "told"),
    [
        ("gs", r"^gs:// needs gcsfs, not installed here\n  -> pip install gcsfs$"),
        ("az", r"^az:// needs adlfs, not installed here\n  -> pip install adlfs$"),
        ("abfss", r"^abfss:// needs adlfs, not installed here"),
        ("s3n", r"^s3n:// cannot be opened: Protocol not known: s3n\n  -> .* use a local path, s3://"),
        ("needy", r"^needy:// cannot be opened: .* argument: 'host'\n"),
        ("https", r"^https:// is no store of files; expected a local path, s3://"),
    ],
)
def test_a_store_that_cannot_be_opened_says_what_it_needs(scheme: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        open_fsspec(scheme)
    for read in (Storage().list_objects, Storage().list_level, Storage().read_bytes, Storage().open_arrow):
        with pytest.raises(InputError, match=told):
            read(f"{scheme}://place/a")


@pytest.mark.parametrize("block", ["bundle", "corpus", "output"])
@pytest.mark.parametrize("scheme", ["gs", "http"])
def test_a_night_of_such_a_place_is_refused(block: str, scheme: str, bundle_directory: Path, tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", num_files=1, rows_per_file=2)
    spec = score_spec(bundle_directory, tmp_path / "corpus", tmp_path / "table").model_dump()
    place = f"{scheme}://place/a"
    blocks = {"bundle": place, "corpus": spec["corpus"] | {"uri": place}, "output": spec["output"] | {"uri": place}}
    with pytest.raises(InputError, match=f"{scheme}:// (needs|is no store)|tables can only be at"):
        prepare_run(ScoreSpec.model_validate(spec | {block: blocks[block]}), NIGHT)


@pytest.mark.parametrize("uri", ["memory://x", "sftp://host/x", "http://host/x"])
def test_no_table_is_where_deltalake_does_not_write(uri: str) -> None:
    with pytest.raises(InputError, match=f"{uri}: tables can only be at local paths, s3://, gs:// and az://"):
        read_nights(uri, Storage())


@pytest.mark.parametrize("uri", ["/a", "file:///a", "s3://b/a", "s3a://b/a", "gs://b/a", "az://c/a", "abfss://c@d/a"])
def test_tables_are_where_deltalake_writes(uri: str) -> None:
    assert ("AWS_REGION" in Storage().delta_options(uri)) == uri.startswith("s3")
