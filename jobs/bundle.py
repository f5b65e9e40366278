"""`bertmill bundle SPEC`: a pretrained encoder, as it is -> a bundle for embeddings."""

from __future__ import annotations

import typer

from jobs.running import running
from jobs.session import Debug, Overrides, SpecPath
from pipeline.config import load_spec
from pipeline.finetune.spec import BundleSpec


def bundle(spec: SpecPath, set_: Overrides = None, debug: Debug = False) -> None:
    """Bundle a pretrained encoder as it is, for embeddings."""
    with running("bundle", spec, debug):
        from pipeline.finetune.bundling import bundle_encoder

        parsed = load_spec(spec, BundleSpec, set_ or ())
        info = bundle_encoder(parsed, spec)
        print(f"bundle {parsed.output}  model_version {info.model_version}")


if __name__ == "__main__":
    typer.run(bundle)
