from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import parse_spec
from pipeline.finetune.bundling import bundle_encoder
from pipeline.finetune.spec import BundleSpec
from pipeline.registry.versions import Registry
from pipeline.storage import Storage


def test_a_version_is_found_in_the_registry_of_the_spec(
    tmp_path: Path, encoder_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BERTMILL_REGISTRY", raising=False)
    plain = BundleSpec(model=str(encoder_directory), output=str(tmp_path / "plain"), max_length=32)
    bundle_encoder(plain)
    Registry(str(tmp_path / "registry"), Storage()).publish(plain.output, "tiny")
    raw = {"model": "models://tiny@1", "output": str(tmp_path / "again"), "registry": str(tmp_path / "registry")}
    info = bundle_encoder(parse_spec({**raw, "max_length": 32}, BundleSpec, "spec"))
    assert info.base_model == "models://tiny@1"
