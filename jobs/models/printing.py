"""What the commands about models print."""

from __future__ import annotations

from pipeline.encoder.bundle import BundleInfo
from pipeline.errors import CorpusError
from pipeline.output.manifests import read_manifests
from pipeline.registry.versions import Registry, Version
from pipeline.uris import canonical_uri


def print_version(version: Version, info: BundleInfo) -> None:
    """A version and its lineage."""
    print(f"{version}  model_version {info.model_version}  {version.uri}")
    print(f"  task {info.task}, {len(info.labels)} labels; base model {info.base_model}")
    print(f"  data {info.data_fingerprint}\n  training run {info.run_fingerprint}")
    print(f"  published {version.claim.published_at} from {version.claim.source}")
    figures = ", ".join(f"{name} {value:.4f}" for name, value in info.metrics.items())
    print(f"  validation: {figures or 'none given'}")


def print_trace(table_uri: str, run_date: str, registry: Registry) -> None:
    """The models of a night, by the manifest of its latest run.

    Raises:
        CorpusError: the night has no manifest.
    """
    uri = canonical_uri(table_uri)
    manifests = read_manifests(uri, registry.storage, run_date)
    if not manifests:
        raise CorpusError(f"{uri}: night {run_date} has no manifest", "list nights with `bertmill table nights`")
    newest = manifests[-1]
    run_id, versions = str(newest.counts["run_id"]), str(newest.counts["model_version"])
    print(f"night {run_date} of {uri}: run {run_id}, model_version {versions}")
    for model_version in versions.split(", "):
        found = registry.find(model_version.rpartition("=")[2])
        for version in found:
            print_version(version, registry.info(version))
        if not found:
            print(f"  {model_version} is not in {registry.uri}")
