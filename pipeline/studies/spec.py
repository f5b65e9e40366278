"""What the user writes for `bertmill learning-curve` and `bertmill suite`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from pipeline.config import ComputeConfig, Seed, SpecModel, StorageConfig, Uri, Uris
from pipeline.uris import overlaps

Method = Literal["finetune", "frozen", "bilstm", "cnn", "tfidf"]
Fraction = Annotated[float, Field(gt=0, le=1)]
Block = dict[str, Any]
"""Fields of another job's spec; checked against that job's own model when the study is prepared."""

FINETUNE_FILLED = ("heads", "output", "work", "compute", "storage", "training.seed", "seeds")
CURVE_FILLED = ("task", "data", *FINETUNE_FILLED)
BUNDLE_FILLED = ("output", "storage")
"""Fields that have no place in a study's block: it fills them in itself, and a cell trains one task."""


class CurveData(SpecModel):
    """The labelled texts of a learning curve."""

    train: Uris = Field(description="files, directories or prefixes of training rows; fractions are taken of these")
    test: Uris = Field(description="rows that every cell is measured on, all of them")
    inputs: dict[str, str] = Field(default_factory=dict, description="task input -> column, where names differ")
    label: str | None = Field(None, description="target column; default: label")
    max_bad_fraction: float = Field(0.01, ge=0, le=1, description="share of rows without usable text or label")


class ScratchConfig(SpecModel):
    """The networks trained from scratch, BiLSTM and CNN."""

    embedding_size: PositiveInt = Field(128, description="numbers for each word")
    hidden_size: PositiveInt = Field(128, description="LSTM units of each direction; filters of each CNN width")
    dropout: float = Field(0.3, ge=0, lt=1, description="share of the states left out while training")
    word_dropout: float = Field(0.05, ge=0, lt=1, description="share of training tokens shown as unknown")
    learning_rate: float = Field(2e-3, gt=0, description="Adam's")
    batch_rows: PositiveInt = Field(32, description="rows of one step")
    min_steps: PositiveInt = Field(600, description="steps trained where there are too few rows to hold some out")
    max_epochs: PositiveInt = Field(40, description="epochs at most, where some rows are held out")
    patience_epochs: PositiveInt = Field(5, description="epochs without a better held-out loss before stopping")


class CurveSpec(SpecModel):
    """Compare a fine-tuned encoder with simpler methods on growing parts of a text-classification training set."""

    data: CurveData
    finetune: Block = Field(
        description="fields of a finetune spec: model, max_length, training, ...; not task, data, output, compute"
    )
    output: Uri = Field(description="URI under which curve.parquet, curve.md, curve.png and the cells' records go")
    fractions: tuple[Fraction, ...] = Field(
        (0.01, 0.05, 0.1, 0.3, 1.0), min_length=1, description="shares of the training rows: nested, stratified"
    )
    seeds: tuple[Seed, ...] = Field((1, 2, 3), min_length=1, description="a cell for each, of its own rows and weights")
    methods: tuple[Method, ...] = Field(
        ("finetune", "frozen", "bilstm", "cnn", "tfidf"), min_length=1, description="what is compared"
    )
    scratch: ScratchConfig = ScratchConfig()
    cpus_per_cell: PositiveInt = Field(1, description="cores of one cell; as many cells run side by side as fit")
    compute: ComputeConfig = ComputeConfig()
    storage: StorageConfig = StorageConfig()

    @field_validator("fractions", "seeds", "methods")
    @classmethod
    def _no_doubles(cls, values: tuple[object, ...]) -> tuple[object, ...]:
        if len(set(values)) < len(values):
            raise ValueError("a value stands there twice")
        return values

    @model_validator(mode="after")
    def _output_is_apart(self) -> CurveSpec:
        inside = [uri for uri in (*self.data.train, *self.data.test) if overlaps(uri, self.output)]
        if inside:
            raise ValueError(f"output overlaps with {inside[0]}: a study would read its own output")
        return self


class Reference(SpecModel):
    """A figure from elsewhere to stand beside one's own."""

    value: float = Field(description="the figure, in the unit of the run's metric")
    source: str = Field(min_length=1, description="who measured it, and where it is published")


class SuiteRun(SpecModel):
    """One line of a suite: something trained or bundled, and the rows it is measured on."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="also its directory under the output")
    finetune: Block | None = Field(None, description="fields of a finetune spec without output, compute and storage")
    bundle: Block | None = Field(None, description="fields of a bundle spec without output: a checkpoint as it is")
    test: Block = Field(description="an evaluate spec's corpus block (uri, inputs, ...), and `label`")
    metric: str | None = Field(None, description="the figure in the table; default: the task's main one")
    reference: Reference | None = None

    @model_validator(mode="after")
    def _one_source(self) -> SuiteRun:
        if (self.finetune is None) == (self.bundle is None):
            raise ValueError("a run has either a finetune or a bundle block")
        return self


class SuiteSpec(SpecModel):
    """Train and measure a list of runs, and put them into one table."""

    runs: tuple[SuiteRun, ...] = Field(min_length=1, description="the lines of the table")
    defaults: Block = Field(default_factory=dict, description="fields merged into every finetune block, which win")
    seeds: tuple[Seed, ...] = Field((1, 2, 3), min_length=1, description="a training for each; a bundle runs once")
    output: Uri = Field(description="URI under which suite.parquet, suite.md, bundles and records go")
    cpus_per_run: PositiveInt = Field(1, description="cores of one run; as many runs go side by side as fit")
    compute: ComputeConfig = ComputeConfig()
    storage: StorageConfig = StorageConfig()

    @field_validator("seeds")
    @classmethod
    def _no_doubles(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(values)) < len(values):
            raise ValueError("a seed stands there twice")
        return values

    @field_validator("runs")
    @classmethod
    def _names_differ(cls, runs: tuple[SuiteRun, ...]) -> tuple[SuiteRun, ...]:
        names = [run.name.lower() for run in runs]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"two runs are called {doubled[0]}")
        return runs
