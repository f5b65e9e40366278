"""Which versions of registered models a night is scored with: resolved once, and kept beside the table.

A night that was begun with one version goes on with it, and a night that is done stays done, wherever the alias has
moved since; the next night follows the alias, and so does a night that is scored again (`--rescore`).

    TABLE/_bertmill/models/run_date=2026-11-23.json
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from pipeline.errors import CommitConflictError
from pipeline.inference.spec import FIRST, ScoreSpec
from pipeline.registry.reference import find_registry, is_reference
from pipeline.registry.resolve import find_version
from pipeline.registry.versions import Registry
from pipeline.schema import RUN_DATE
from pipeline.storage import Storage
from pipeline.uris import join_uri


@dataclass(frozen=True)
class UsedModel:
    """What a bundle of a spec was resolved to.

    Attributes:
        asked: As the spec names it: `models://sentiment@production`.
        version: What that is: `sentiment@3`.
        uri: Where its bundle is.
    """

    asked: str
    version: str
    uri: str


@dataclass(frozen=True)
class NightModels:
    """The registered models of one night of one table, by the bundle's name in the spec."""

    table_uri: str
    run_date: str
    storage: Storage

    def read(self) -> dict[str, UsedModel]:
        """Those that were kept; none for a night that was not begun."""
        content = self.storage.read_bytes(self._uri)
        return {name: UsedModel(**values) for name, values in json.loads(content).items()} if content else {}

    def keep(self, models: Mapping[str, UsedModel], rescores: bool) -> None:
        """Write down what a night is scored with; to be called by the one run that is at work on it.

        Raises:
            CommitConflictError: another run has begun the night with other versions meanwhile.
        """
        standing = self.read()
        if not models or standing == models:
            return
        changed = [name for name in models if name in standing and standing[name].asked == models[name].asked]
        if not rescores and any(standing[name] != models[name] for name in changed):
            begun = ", ".join(standing[name].version for name in changed)
            raise CommitConflictError(
                f"night {self.run_date} of {self.table_uri} was begun with {begun} meanwhile",
                "run the same command again: it goes on with that",
            )
        content = {name: asdict(model) for name, model in models.items()}
        self.storage.write_bytes(self._uri, json.dumps(content, indent=2).encode())

    @property
    def _uri(self) -> str:
        return join_uri(self.table_uri, "_bertmill", "models", f"{RUN_DATE}={self.run_date}.json")


def resolve_bundles(spec: ScoreSpec, run_date: str, rescores: bool) -> tuple[ScoreSpec, dict[str, UsedModel]]:
    """A spec whose bundles are places, and what those that a registry names were resolved to. Writes nothing.

    Raises:
        ModelError: there is no such version, alias or registry.
    """
    asked = {name: uri for name, uri in spec.bundles.items() if is_reference(uri)}
    if not asked:
        return spec, {}
    storage = Storage(spec.storage)
    kept = {} if rescores else NightModels(spec.output.uri, run_date, storage).read()
    registry = Registry(find_registry(spec.registry), storage)
    models = {}
    for name, reference in asked.items():
        model = kept.get(name)
        if model is None or model.asked != reference:
            version = find_version(reference, registry)
            model = UsedModel(reference, str(version), version.uri)
        models[name] = model
    blocks = {"bundle": spec.bundle, "beside": spec.beside}
    places: dict[str, object] = {
        block: {name: models[name].uri if name in models else uri for name, uri in bundles.items()}
        for block, bundles in blocks.items()
    }
    if spec.cascade is not None and FIRST in models:
        places["cascade"] = spec.cascade.model_copy(update={"first": models[FIRST].uri})
    return spec.model_copy(update=places), models
