"""How long a model takes over one row alone, on this machine: for models that also answer people who wait."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.errors import GateError
from pipeline.inference.gates import LabelledRows
from pipeline.inference.predictor import Predictor, load_predictor
from pipeline.inference.source import ModelSource, TextSource
from pipeline.inference.worker import bundle_columns
from pipeline.storage import Storage

_ONLY = ""
_NUM_ROUNDS = 3  # of a row's times the least counts: what else the machine did is not the model's


@dataclass(frozen=True)
class LatencyGate:
    """Tokens, model and decoding of one row at a time; the present model is measured in turns with the candidate.

    Attributes:
        max_ms: The most that the 95th percentile of rows may take, milliseconds.
        max_slowdown: By what share all rows together may take longer than the present model's.
        num_rows: Rows that are measured.
    """

    max_ms: float | None = None
    max_slowdown: float | None = None
    num_rows: int = 64

    def check(self, candidate: str, present: str | None, rows: LabelledRows) -> str:
        """Measure both.

        Returns:
            What was found, as one line.

        Raises:
            GateError: the candidate is slower than it may be, or there is no row to measure it on.
        """
        models = [_Timed(uri, rows, self.num_rows) for uri in (candidate, present) if uri is not None]
        for model in models:
            model.run()  # kernels are chosen and memory is taken
        rounds = [[model.run() for model in models] for _ in range(_NUM_ROUNDS)]
        times = [np.min(of_model, axis=0) for of_model in zip(*rounds, strict=True)]
        slowest = [float(np.percentile(found, 95)) for found in times]
        line = f"latency of one row, 95th percentile of {len(times[0])} rows of {rows.uri}: {slowest[0]:.2f} ms"
        if self.max_ms is not None and slowest[0] > self.max_ms:
            raise GateError(f"{line}; allowed are {self.max_ms:g} ms", "nothing was promoted")
        if present is None:
            return f"{line}; no present model to compare with"
        slowdown = float(times[0].sum() / times[1].sum()) - 1
        line += f", present model {slowest[1]:.2f} ms; all rows {slowdown:+.1%}"
        if self.max_slowdown is not None and slowdown > self.max_slowdown:
            raise GateError(f"{line}; allowed is {self.max_slowdown:+.1%}", "nothing was promoted")
        return line


class _Timed:
    """A model and the rows it is measured on."""

    def __init__(self, uri: str, rows: LabelledRows, num_rows: int) -> None:
        run, storage = rows.prepare(uri), Storage(rows.storage)
        self._texts: TextSource = run.source.groups[0]
        usable = rows.first_usable(run, num_rows)
        if not usable.num_rows:
            raise GateError(f"latency: {rows.uri} has no usable row", "nothing was promoted")
        self._rows = [usable.slice(index, 1) for index in range(usable.num_rows)]
        source = ModelSource({_ONLY: uri}, {_ONLY: self._texts}, run.spec.compute, rows.num_threads, storage)
        self._predictor: Predictor = load_predictor(source)

    def run(self) -> npt.NDArray[np.float64]:
        """Milliseconds of each row [R]."""
        return np.array([self._time(row) for row in self._rows])

    def _time(self, row: pa.Table) -> float:
        started_s = time.perf_counter()
        bundle_columns(self._predictor.members[_ONLY], self._predictor.predict(row, {_ONLY: self._texts})[_ONLY])
        return (time.perf_counter() - started_s) * 1e3
