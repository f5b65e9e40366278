"""A few texts -> their embeddings, in this process: what a search in a scored night starts from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.config import ComputeConfig
from pipeline.corpus.reader import input_column
from pipeline.encoder.bundle import read_bundle_info
from pipeline.errors import ModelError
from pipeline.inference.predictor import load_predictor
from pipeline.inference.source import ModelSource, TextSource
from pipeline.storage import Storage
from pipeline.tasks import find_task

_ONLY, _TEXT = "", "text"


def embed_texts(bundle_uri: str, texts: Sequence[str], storage: Storage) -> npt.NDArray[np.float32]:
    """Embeddings as a night scored with the bundle has them.

    Args:
        bundle_uri: The bundle.
        texts: Q texts.
        storage: The store.

    Returns:
        float32 [Q, hidden].

    Raises:
        ModelError: there is no such bundle, or its rows are more than one text.
        ComputeError: it cannot be run here.
    """
    inputs = find_task(read_bundle_info(bundle_uri, storage).task, bundle_uri).inputs
    if len(inputs) > 1:
        raise ModelError(
            f"{bundle_uri}: embeds rows of {' and '.join(inputs)}, not single texts", "search with a bundle of one text"
        )
    read = {_ONLY: TextSource((_TEXT,))}
    predictor = load_predictor(ModelSource({_ONLY: bundle_uri}, read, ComputeConfig(), 1, storage))
    rows = pa.table({input_column(_TEXT): pa.array(texts, pa.large_string())})
    return np.asarray(predictor.predict(rows, read)[_ONLY].outputs.embeddings, np.float32)
