"""What an evaluation would read at this moment, so that a moved alias or changed rows are other work."""

from __future__ import annotations

import hashlib
import json
import sys

from pipeline.errors import BertmillError, first_line
from pipeline.inference.spec import EvaluateSpec
from pipeline.storage import Storage


def digest_inputs(spec: EvaluateSpec) -> str | None:
    """Of the bundles that `models://` names now, and of the files with rows, as this machine sees them.

    Returns:
        None, with a note, where this machine cannot see them: only the cluster's may have the credentials.
    """
    from pipeline.corpus.listing import list_corpus
    from pipeline.encoder.bundle import read_bundle_info
    from pipeline.registry.resolve import resolve_model

    storage, search = Storage(spec.storage), spec.retrieval
    named = [spec.bundle, *([spec.cascade.first] if spec.cascade else [])]
    sets = [spec.corpus.uri] if spec.corpus else []
    sets += [search.queries, search.documents, search.relevance] if search else []
    try:
        bundles = [resolve_model(uri, spec.registry, storage) for uri in named]
        found = {
            "bundles": [(uri, read_bundle_info(uri, storage).fingerprint) for uri in bundles],
            "files": [[(file.uri, file.etag, file.size_bytes) for file in list_corpus(uris, storage)] for uris in sets],
        }
    except BertmillError as error:
        print(f"note: what is evaluated cannot be looked at from here: {first_line(error)}", file=sys.stderr)
        return None
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()
