"""`bertmill table verify URI --date D [--bundle B]`: read a published night again and check it."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.nights import parse_date
from jobs.session import Debug, guarded
from jobs.table.options import Endpoint, Night, RegistryUri, TableUri, open_storage, parse_inputs
from pipeline.errors import AccountingError, InputError
from pipeline.uris import canonical_uri

BundleUri = Annotated[str | None, typer.Option("--bundle", help="score a sample again, with the bundle that did it")]
Sample = Annotated[int, typer.Option("--sample", min=1, help="rows to score again")]
Inputs = Annotated[list[str] | None, typer.Option("--input", help="where a column has another name: text=body")]
BundleName = Annotated[str, typer.Option("--name", help="the bundle's name in the spec, if it was one of several")]


def verify(
    uri: TableUri,
    date_: Night,
    bundle: BundleUri = None,
    sample: Sample = 64,
    input_: Inputs = None,
    name: BundleName = "",
    registry: RegistryUri = None,
    endpoint_url: Endpoint = None,
    debug: Debug = False,
) -> None:
    """Read a published night again: files, rows, manifest, done-records; with --bundle, scores too."""
    with guarded(debug):
        from jobs.table.printing import print_rescored, print_verified
        from pipeline.output.verify import verify_night

        storage, night, inputs = open_storage(endpoint_url), parse_date(date_), parse_inputs(input_ or [])
        found = verify_night(uri, night, storage)
        print_verified(canonical_uri(uri), found)
        problems = list(found.problems)
        if bundle is not None:
            from pipeline.inference.verify import SampleCheck, rescore_sample

            try:
                rescored = rescore_sample(uri, night, SampleCheck(bundle, sample, inputs, name, registry), storage)
                print_rescored(rescored)
                problems += rescored.problems
            except InputError as error:
                if not problems:
                    raise
                problems.append(f"scores were not checked: {error.message}")
        if problems:
            listed = "\n".join(f"- {problem}" for problem in problems)
            raise AccountingError(
                f"night {night} of {canonical_uri(uri)}: {len(problems)} problems\n{listed}",
                "score the night again where files are missing or wrong: shards whose files are gone are redone",
            )
        print("no problems")
