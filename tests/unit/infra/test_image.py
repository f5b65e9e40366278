from __future__ import annotations

import re

from tests.unit.infra.manifests import INFRA, ROOT

LINES = (INFRA / "images" / "Dockerfile").read_text(encoding="utf-8").splitlines()
STAGES = dict(re.findall(r"^FROM base AS (\w+)\n(.*?)(?=^FROM|\Z)", "\n".join(LINES), re.MULTILINE | re.DOTALL))


def test_every_package_is_pinned() -> None:
    installs = [line for line in LINES if "pip install" in line and not line.startswith("#")]
    assert len(installs) == 4
    assert all("--constraint constraints.txt" in line for line in installs)


def test_both_images_end_as_a_user_without_privileges() -> None:
    assert set(STAGES) == {"cpu", "cuda"}
    for text in STAGES.values():
        assert re.findall(r"^USER (.*)$", text, re.M) == ["1000:1000"]
        assert text.index("USER") > text.rindex("RUN")
    assert "download.pytorch.org/whl/cpu" in STAGES["cpu"]
    assert "download.pytorch.org" not in STAGES["cuda"]


def test_what_is_copied_exists_and_is_in_the_context() -> None:
    copied = {word for line in LINES if line.startswith("COPY") for word in line.split()[1:-1]}
    ignore = (INFRA / "images" / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert copied == {line[1:] for line in ignore if line.startswith("!")}
    assert all((ROOT / name).exists() for name in copied)
