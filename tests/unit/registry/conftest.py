"""A registry on local disk, and bundles that differ in one number each, without weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.encoder.bundle import BundleInfo
from pipeline.registry.versions import Registry
from pipeline.storage import Storage

MakeBundle = Callable[[str], str]


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(str(tmp_path / "registry"), Storage())


@pytest.fixture
def bundle_of(tmp_path: Path) -> MakeBundle:
    """Writes a bundle of one small file; returns its URI."""

    def make(content: str) -> str:
        directory = tmp_path / f"bundle-{content}"
        directory.mkdir(exist_ok=True)
        (directory / "config.json").write_text(content)
        info = BundleInfo(
            task="text-classification",
            inputs={"text": "text"},
            base_model="tiny",
            data_fingerprint="d" * 64,
            run_fingerprint="r" * 64,
            metrics={"macro_f1": 0.5},
            files={"config.json": hashlib.sha256(content.encode()).hexdigest()},
        )
        (directory / "bundle.json").write_text(info.model_dump_json())
        return str(directory)

    return make
