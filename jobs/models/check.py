"""The gates of a promotion, in turn: figures, parity, latency."""

from __future__ import annotations

import os

from jobs.models.gates import Gates
from jobs.table.options import parse_inputs
from pipeline.config import StorageConfig
from pipeline.registry.versions import Version


def check_gates(gates: Gates, version: Version, present: Version | None) -> list[str]:
    """What was found, one line for each gate.

    Raises:
        GateError: one was not passed.
    """
    if gates.on is None:
        return []
    from pipeline.inference.gates import LabelledRows, MetricGate, ParityGate
    from pipeline.inference.latency import LatencyGate

    store, threads = StorageConfig(endpoint_url=gates.endpoint_url), os.cpu_count() or 1
    rows = LabelledRows(gates.on, store, gates.label, parse_inputs(gates.inputs), threads)
    uri = present.uri if present else None
    found = [MetricGate(gates.metric, gates.allowance).check(version.uri, uri, rows)] if gates.metric else []
    found += [ParityGate(gates.parity).check(version.uri, rows)] if gates.parity else []
    if gates.latency_ms is not None or gates.slowdown is not None:
        found.append(LatencyGate(gates.latency_ms, gates.slowdown).check(version.uri, uri, rows))
    return found
