"""Text -> token ids, as ragged arrays: one flat id array and row offsets, no Python list per row kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.errors import ModelError

_CHUNK_ROWS = 2048


@dataclass(frozen=True)
class TokenRows:
    """Token ids of many rows.

    Attributes:
        ids: int32 [total tokens], rows back to back, special tokens included.
        offsets: int64 [rows + 1]; row i is `ids[offsets[i]:offsets[i + 1]]`.
        truncated: bool [rows]; the text had more tokens than were kept.
    """

    ids: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    truncated: npt.NDArray[np.bool_]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each row."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, index: int) -> npt.NDArray[np.int32]:
        """The ids of one row."""
        return self.ids[self.offsets[index] : self.offsets[index + 1]]


class TextTokenizer:
    """A fast tokenizer with truncation to `max_length`, safe to use from one thread.

    Args:
        tokenizer: A Hugging Face fast tokenizer.
        max_length: Tokens kept of each text, special tokens included.

    Raises:
        ModelError: the tokenizer has no fast (Rust) form.
    """

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ModelError(
                f"the tokenizer {type(tokenizer).__name__} has no fast form",
                "save it with a tokenizer.json (tokenizer.save_pretrained of a fast tokenizer)",
            )
        self._backend = backend
        self._backend.no_padding()
        self._backend.enable_truncation(max_length=max_length)
        self.pad_id: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0

    def encode(self, texts: pa.Array | pa.ChunkedArray) -> TokenRows:
        """Tokenise every text.

        Args:
            texts: String array without nulls [rows].
        """
        pieces: list[npt.NDArray[np.int32]] = []
        lengths = np.zeros(len(texts), np.int64)
        truncated = np.zeros(len(texts), np.bool_)
        for start in range(0, len(texts), _CHUNK_ROWS):
            encodings = self._backend.encode_batch_fast(texts.slice(start, _CHUNK_ROWS).to_pylist())
            for row, encoding in enumerate(encodings, start):
                lengths[row] = len(encoding)
                truncated[row] = bool(encoding.overflowing)
            pieces += [np.asarray(encoding.ids, np.int32) for encoding in encodings]
        ids = np.concatenate(pieces) if pieces else np.zeros(0, np.int32)
        return TokenRows(ids, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), truncated)


def pad_rows(rows: TokenRows, indices: npt.NDArray[np.int64], pad_id: int) -> tuple[Any, Any]:
    """Gather rows into one rectangle.

    Returns:
        (ids_BS int64, mask_BS int64), padded on the right to the longest row; numpy arrays.
    """
    lengths_B = rows.lengths[indices]
    mask_BS = np.arange(int(lengths_B.max(initial=0))) < lengths_B[:, None]
    ids_BS = np.full(mask_BS.shape, pad_id, np.int64)
    for position, index in enumerate(indices):
        ids_BS[position, : lengths_B[position]] = rows.row(int(index))
    return ids_BS, mask_BS.astype(np.int64)
