from __future__ import annotations

import base64
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as arrow_fs
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as encryption
import pytest

from pipeline.corpus.footer import open_footer
from pipeline.corpus.listing import list_corpus
from pipeline.corpus.reader import Columns, survey_files
from pipeline.errors import CorpusError
from pipeline.storage import Storage

LOCAL = arrow_fs.LocalFileSystem()
ROWS = pa.table({"text": ["good", "bad"], "id": [1, 2]})


class PlainKeys(encryption.KmsClient):  # type: ignore[misc]
    """Wraps keys in nothing but base64."""

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> bytes:
        return base64.b64encode(key_bytes)

    def unwrap_key(self, wrapped_key: bytes, master_key_identifier: str) -> bytes:
        return base64.b64decode(wrapped_key)


def write_encrypted(path: Path, plaintext_footer: bool) -> None:
    factory = encryption.CryptoFactory(lambda config: PlainKeys())
    options = encryption.EncryptionConfiguration(
        footer_key="k", column_keys={"k": ["text"]}, plaintext_footer=plaintext_footer
    )
    properties = factory.file_encryption_properties(encryption.KmsConnectionConfig(), options)
    with pq.ParquetWriter(path, ROWS.schema, encryption_properties=properties) as writer:
        writer.write_table(ROWS)


@pytest.mark.parametrize("num_columns", [2, 3_000])
def test_a_footer_is_what_pyarrow_reads_however_long(num_columns: int, tmp_path: Path) -> None:
    columns = {f"column-{index}": [index] for index in range(num_columns - 1)}
    table = pa.table({"text": pa.array(["a"]).dictionary_encode(), **columns})
    pq.write_table(table, tmp_path / "a.parquet")
    footer = open_footer(str(tmp_path / "a.parquet"), LOCAL)
    assert (footer.metadata.serialized_size > 65_536) == (num_columns == 3_000)
    assert footer.metadata == pq.read_metadata(tmp_path / "a.parquet")
    assert footer.schema_arrow.equals(pq.read_schema(tmp_path / "a.parquet"))
    assert pa.types.is_dictionary(footer.schema_arrow.field("text").type)


@pytest.mark.parametrize(
    ("plaintext_footer", "words"), [(False, "it is encrypted"), (True, "some of its columns are encrypted")]
)
def test_an_encrypted_file_is_told_and_ends_no_process(plaintext_footer: bool, words: str, tmp_path: Path) -> None:
    write_encrypted(tmp_path / "a.parquet", plaintext_footer)
    files = list_corpus([str(tmp_path)], Storage())
    with pytest.raises(CorpusError, match=rf"a\.parquet: not a readable Parquet file: {words}"):
        survey_files(files, Columns(("text",)), Storage())
    assert survey_files(files, Columns(("text",)), Storage(), skip_corrupt=True).footers == ()


@pytest.mark.parametrize("content", [b"", b"x", b"PAR1", b"PAR1PAR1", b"\xff" * 9 + b"PAR1", b"PAR1" + b"\xff" * 100])
def test_what_is_no_parquet_is_an_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(pa.ArrowInvalid, match=r"[Pp]arquet"):
        open_footer(str(tmp_path / "a.parquet"), LOCAL)
