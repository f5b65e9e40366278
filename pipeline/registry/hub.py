"""A bundle on a Hugging Face hub: its files in one commit, tagged with its model_version. Needs huggingface_hub.

The hub's address and the token are those that every tool for it reads: `HF_ENDPOINT`, and `HF_TOKEN` or the file that
`hf auth login` writes.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.encoder.bundle import BUNDLE_FILE, Bundle, BundleInfo
from pipeline.errors import BertmillError, ModelError, StorageDeniedError, TransientStorageError, first_line

CARD = "README.md"
_PIPELINES = {  # https://huggingface.co/docs/hub/models-widgets
    "text-classification": "text-classification",
    "pair-classification": "text-classification",
    "multi-label": "text-classification",
    "similarity": "text-classification",
    "token-classification": "token-classification",
    "question-answering": "question-answering",
    "embedding": "sentence-similarity",
}


@dataclass(frozen=True)
class HubTarget:
    """Where a bundle goes: `repo` is NAME or ORGANISATION/NAME; a repository that is not there yet is made."""

    repo: str
    is_private: bool = True


def push_to_hub(bundle: Bundle, title: str, target: HubTarget) -> str:
    """Make a repository hold exactly a bundle, apart from what else people put there; again, it changes nothing.

    Files of the bundle that was pushed before and that this one does not have go in the same commit. A model card is
    written where there is none.

    Args:
        bundle: The bundle, on local disk.
        title: What it is called, in the commit's message and the card.
        target: Where it goes.

    Returns:
        The address of the commit.

    Raises:
        StorageDeniedError: the hub knows no such token, or it may not write there.
        TransientStorageError: the hub does not answer.
        ModelError: the hub refuses the repository or a file.
    """
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    from huggingface_hub.errors import HTTPError as NoAnswer  # type: ignore[attr-defined]  # of whatever client it uses

    try:
        return _push(bundle, title, target)
    except HfHubHTTPError as error:
        raise _refused(target, error) from None
    except HFValidationError as error:
        raise ModelError(f"{target.repo}: {first_line(error)}", "NAME or ORGANISATION/NAME") from None
    except NoAnswer as error:
        raise TransientStorageError(
            f"the hub at {_endpoint()} does not answer: {type(error).__name__}", "check HF_ENDPOINT and the network"
        ) from None


def _push(bundle: Bundle, title: str, target: HubTarget) -> str:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api, info = HfApi(endpoint=_endpoint(), library_name="bertmill"), bundle.info
    repo = api.create_repo(target.repo, private=target.is_private, exist_ok=True).repo_id
    there = set(api.list_repo_files(repo))
    paths: dict[str, Path | bytes] = {name: bundle.path / name for name in sorted(info.files)}
    paths[BUNDLE_FILE] = info.model_dump_json(indent=2).encode()
    if CARD not in there and CARD not in paths:
        paths[CARD] = render_card(info, title).encode()
    gone = sorted((_pushed_before(api, repo, there) & there) - paths.keys())
    additions = [CommitOperationAdd(name, source) for name, source in paths.items()]
    deletions = [CommitOperationDelete(name) for name in gone]
    message = f"{title}, model_version {info.model_version}"
    commit = api.create_commit(repo, [*additions, *deletions], commit_message=message)
    api.create_tag(repo, tag=info.model_version, revision=commit.oid, exist_ok=True)
    return str(commit.commit_url)


def render_card(info: BundleInfo, title: str) -> str:
    """A model card: what the model is, how it was measured, how it is loaded."""
    is_embedding = info.task == "embedding"
    library = "sentence-transformers" if is_embedding else "transformers"
    head = {"library_name": library, "pipeline_tag": _PIPELINES.get(info.task), "tags": ["bertmill"]}
    metadata = [f"{key}: {json.dumps(value)}" for key, value in head.items() if value]
    origin, use = _usage(info.task)
    figures = [f"| {name} | {value:.4f} |" for name, value in info.metrics.items()]
    table = ["", "| validation | |", "|---|---|", *figures] if figures else []
    facts = f"Task {info.task}; base model {info.base_model}; texts of up to {info.max_length} tokens."
    labels = [f"Labels: {', '.join(info.labels)}."] if info.labels else []
    code = ["", "```python", f"from {origin}", "", f"model = {use}", "```"]
    lines = ["---", *metadata, "---", "", f"# {title}", "", facts, *labels, *table, *code]
    return "\n".join(lines) + "\n"


def _usage(task: str) -> tuple[str, str]:
    """What a card imports, and how it makes the model of REPO."""
    if task == "embedding":
        return "sentence_transformers import SentenceTransformer", "SentenceTransformer(REPO)"
    if task == "question-answering":  # transformers 5 has no pipeline for it
        name = "AutoModelForQuestionAnswering"
        return f"transformers import {name}", f"{name}.from_pretrained(REPO)"
    return "transformers import pipeline", f'pipeline("{_PIPELINES.get(task)}", REPO)'


def _pushed_before(api: Any, repo: str, there: set[str]) -> set[str]:
    """The files of the bundle that stands there."""
    if BUNDLE_FILE not in there:
        return set()
    with tempfile.TemporaryDirectory(prefix="bertmill-hub-") as folder:
        content = Path(api.hf_hub_download(repo, BUNDLE_FILE, local_dir=folder)).read_bytes()
    try:
        files: Mapping[str, str] = json.loads(content)["files"]
    except (ValueError, KeyError, TypeError):  # somebody else's file of this name
        return set()
    return set(files)


def _refused(target: HubTarget, error: Any) -> BertmillError:
    status = error.response.status_code if error.response is not None else None
    said = f"the hub at {_endpoint()} refuses {target.repo}: {error.server_message or f'status {status}'}"
    if status in (401, 403):
        return StorageDeniedError(said, "set HF_TOKEN to a token that may write there, or `hf auth login`")
    if status is not None and status >= 500:
        return TransientStorageError(said, "try again later")
    return ModelError(said, "check the repository's name")


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
