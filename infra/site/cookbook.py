"""The cookbook of queries: in the navigation as soon as docs/ has one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PAGE = "cookbook.md"


def on_config(config: Any) -> Any:
    """Put the page behind the others about nights; mkdocs.yml alone cannot name a page that may be missing."""
    if (Path(config["docs_dir"]) / PAGE).exists():
        (nights,) = (entry["Every night"] for entry in config["nav"] if "Every night" in entry)
        nights.append({"Cookbook of queries": PAGE})
    return config
