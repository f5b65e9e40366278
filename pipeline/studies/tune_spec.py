"""What the user writes for `bertmill tune`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from pipeline.config import ComputeConfig, Seed, SpecModel, StorageConfig, Uri
from pipeline.studies.space import Dimension
from pipeline.studies.spec import Block

TUNE_FILLED = ("output", "work", "compute", "storage", "seeds")
"""Fields that have no place in the finetune block: the search fills them in itself."""
SAME_FOR_ALL = ("task", "data", "heads", "registry", "checkpoint", *TUNE_FILLED)
"""Fields that cannot be searched over: figures on other data do not compare, and places decide nothing."""


class TuneSpec(SpecModel):
    """Train with many recipes, drawn from a space, and keep the best."""

    finetune: Block = Field(description="fields of a finetune spec without output, work, compute and storage")
    space: dict[str, Dimension] = Field(
        min_length=1, description="field of the finetune block -> where values come from"
    )
    metric: str = Field("auto", description="the figure on validation rows: METRIC or HEAD.METRIC; auto: the main one")
    mode: Literal["max", "min"] | None = Field(None, description="default: min for loss, ece and perplexity, else max")
    trials: PositiveInt = Field(20, description="how many recipes are drawn")
    seed: Seed = Field(1, description="of the draws; trainings are seeded by training.seed")
    scheduler: Literal["none", "asha"] = Field(
        "none", description="asha: at 1, 3, 9, ... times grace_evaluations the worse trials are stopped"
    )
    grace_evaluations: PositiveInt = Field(1, description="evaluations before a trial may be stopped")
    reduction_factor: int = Field(3, ge=2, description="one in so many goes on")
    output: Uri = Field(description="URI under which tune.parquet, tune.md, tune.png, records and best (a bundle) go")
    cpus_per_trial: PositiveInt = Field(1, description="cores of one trial; as many trials run side by side as fit")
    compute: ComputeConfig = ComputeConfig()
    storage: StorageConfig = StorageConfig()
