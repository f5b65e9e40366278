"""`bertmill models promote|rollback`: which version an alias names."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.models.check import check_gates
from jobs.models.gates import Allowance, Gates, Inputs, Label, LatencyMs, Metric, On, Parity, Slowdown
from jobs.models.options import ModelName, open_registry
from jobs.session import Debug, guarded
from jobs.table.options import Endpoint, RegistryUri
from pipeline.registry.aliases import NEVER_SET, Alias
from pipeline.registry.reference import check_name, parse_reference
from pipeline.registry.resolve import find_version

To = Annotated[str, typer.Option("--to", help="the alias: production", show_default=False)]


def promote(
    model: ModelName,
    to: To,
    on: On = None,
    metric: Metric = None,
    allowance: Allowance = 0.0,
    parity: Parity = 0,
    latency_ms: LatencyMs = None,
    slowdown: Slowdown = None,
    label: Label = None,
    input_: Inputs = None,
    registry: RegistryUri = None,
    endpoint_url: Endpoint = None,
    debug: Debug = False,
) -> None:
    """Let an alias name a version, if it passes the gates and nobody moved the alias meanwhile."""
    with guarded(debug):
        place = open_registry(registry, endpoint_url)
        gates = Gates(on, metric, allowance, parity, latency_ms, slowdown, label, input_ or (), endpoint_url)
        version = find_version(model, place)
        alias = Alias(place, version.name, check_name(to, "an alias"))
        seen = alias.now()
        if seen.version == version.number:
            print(f"{alias} is {version} already")
            return
        present = None if seen == NEVER_SET else place.version(version.name, seen.version)
        found = check_gates(gates, version, present)
        alias.move(version, seen, found)
        print("\n".join([f"{alias} is {version} now", *(f"  passed: {line}" for line in found)]))


def rollback(
    model: ModelName, registry: RegistryUri = None, endpoint_url: Endpoint = None, debug: Debug = False
) -> None:
    """Let an alias (NAME@ALIAS) name the version before its present one; again, the one before that."""
    with guarded(debug):
        wanted = parse_reference(model)
        alias = Alias(open_registry(registry, endpoint_url), wanted.name, check_name(wanted.alias, "an alias"))
        print(f"{alias} is {wanted.name}@{alias.roll_back().version} again")
