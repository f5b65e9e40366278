"""A Parquet file's footer, from the file's end alone; encrypted files are told, which pyarrow does not survive.

Arrow's C++ ends the process when it is asked for the metadata of an encrypted column (it throws where nothing may be
thrown), so a file has to be known for encrypted before.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_TAIL_BYTES = 65_536  # what pyarrow itself asks for first
_END_BYTES = 8  # the footer's length, and the magic
_SIGNATURE_BYTES = 28  # nonce and tag behind a footer that is plain, of a file with encrypted columns
_ENCRYPTED_MAGIC = b"PARE"


def open_footer(path: str, filesystem: Any) -> pq.ParquetFile:
    """The file's metadata and Arrow schema; its rows are not in it.

    Raises:
        ArrowInvalid: it is not Parquet, or it is encrypted.
        OSError: it cannot be read.
    """
    with filesystem.open_input_file(path) as source:
        size = source.size()
        tail = _read_end(source, size, _TAIL_BYTES)
        needed = int.from_bytes(tail[-_END_BYTES:-4], "little") + _END_BYTES
        if len(tail) < needed <= size and tail[-4:] == b"PAR1":
            tail = _read_end(source, size, needed)
    if tail[-4:] == _ENCRYPTED_MAGIC:
        raise pa.ArrowInvalid("it is encrypted")
    footer = pq.ParquetFile(pa.BufferReader(tail))
    if needed - _END_BYTES - footer.metadata.serialized_size == _SIGNATURE_BYTES:
        raise pa.ArrowInvalid("some of its columns are encrypted")
    return footer


def _read_end(source: Any, size: int, num_bytes: int) -> bytes:
    source.seek(max(0, size - num_bytes))
    return bytes(source.read(num_bytes))
