"""What the user writes for `bertmill score` and `bertmill evaluate`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

from pipeline.config import (
    CorpusConfig,
    NightCompute,
    ScoringCompute,
    SpecModel,
    StorageConfig,
    Uri,
    Uris,
    check_bundle_names,
)
from pipeline.report.limits import ReportConfig
from pipeline.schema import RESERVED_COLUMNS, written_name
from pipeline.uris import overlaps


def _as_bundles(value: object) -> object:
    if not isinstance(value, str | dict):
        raise ValueError(f"holds {value!r}; expected one URI, or a block of `name: URI`")
    return {"": value} if isinstance(value, str) else value


def _named_bundles(bundles: dict[str, str]) -> dict[str, str]:
    if list(bundles) != [""]:
        check_bundle_names(bundles)
    return bundles


Bundles = Annotated[
    dict[str, Uri],
    BeforeValidator(_as_bundles),
    AfterValidator(_named_bundles),
    Field(min_length=1),
    WithJsonSchema(
        {"anyOf": [{"type": "string"}, {"type": "object", "additionalProperties": {"type": "string"}}]},
    ),
]
"""One bundle's URI (kept under the name ""), or several by name."""


class OutputConfig(SpecModel):
    """Where scored rows go, and which of the larger columns are written."""

    uri: Uri = Field(description="the Delta table (local, s3://, gs:// by gcsfs, az:// by adlfs); created when missing")
    mode: Literal["nights", "snapshot"] = Field(
        "nights",
        description="nights: each night's partition holds what it scored; snapshot: the table is the scored corpus; "
        "a table stays what it was begun as",
    )
    select: Literal["all", "new"] = Field(
        "all", description="what a night of `nights` holds: the whole corpus, or files new or changed since the last"
    )
    vanished: Literal["drop", "keep"] = Field(
        "drop",
        description="rows whose file is gone from the corpus (of a snapshot that keeps: or is corrupt there and left "
        "out): in a snapshot, or in what is current with `select: new`",
    )
    embedding: bool | tuple[str, ...] = Field(
        True, description="write the pooled encoder output as list<float32>; or the names of the bundles to do so for"
    )

    @model_validator(mode="after")
    def _options_fit_the_mode(self) -> OutputConfig:
        if self.mode == "snapshot" and self.select == "new":
            raise ValueError("select: new is for mode: nights; a snapshot scores only what is new by itself")
        if self.select == "all" and self.mode == "nights" and self.vanished == "keep":
            raise ValueError("vanished: keep is for a snapshot or select: new; else a night holds what the corpus held")
        return self

    @property
    def keeps_files_apart(self) -> bool:
        """Whether each scored file is of one corpus file alone, because it may have to stay when that is gone."""
        return self.mode == "snapshot" and self.vanished == "keep"

    def writes_embedding(self, bundle_name: str) -> bool:
        """Whether a bundle's embedding is written."""
        return self.embedding if isinstance(self.embedding, bool) else bundle_name in self.embedding


FIRST = "first"
"""Name of a cascade's first bundle among a run's bundles."""


class CascadeConfig(SpecModel):
    """A smaller bundle that goes first; `bundle` scores the rows of which it is not sure."""

    first: Uri = Field(description="bundle of the same task and labels, faster than `bundle`")
    min_score: float = Field(
        ge=0, le=1, description="rows whose label the first bundle gives at least this score keep its answer"
    )


class ScoreSpec(SpecModel):
    """Score a corpus with one bundle, or with several at once, and publish one night of a table."""

    bundle: Bundles = Field(description="bundle written by `bertmill finetune`, or models://...; several: `name: URI`")
    beside: dict[str, Uri] = Field(
        default_factory=dict,
        description="for a comparison night, bundles that score the same rows beside: `name: URI`; their columns are "
        "prefixed by their names, and null in other nights",
    )
    cascade: CascadeConfig | None = Field(
        None, description="a smaller bundle first; `model_version` says of each row which of the two answered"
    )
    registry: Uri | None = Field(None, description="where models:// is looked up; default: $BERTMILL_REGISTRY")
    corpus: CorpusConfig
    output: OutputConfig
    reuse: Literal["none", "text-hash"] = Field(
        "none", description="text-hash: rows whose texts were scored before, by the same model, get the stored result"
    )
    report: ReportConfig = ReportConfig()
    compute: NightCompute = NightCompute()
    storage: StorageConfig = StorageConfig()

    @property
    def bundles(self) -> dict[str, str]:
        """Every bundle by its name, those beside and a cascade's first one too."""
        return {**self.bundle, **self.beside, **({FIRST: self.cascade.first} if self.cascade else {})}

    @property
    def answering(self) -> dict[str, str]:
        """Those that columns of the table are named after."""
        return {**self.bundle, **self.beside}

    @field_validator("beside")
    @classmethod
    def _beside_are_named(cls, beside: dict[str, str]) -> dict[str, str]:
        check_bundle_names(beside)
        return beside

    @model_validator(mode="after")
    def _names_differ(self) -> ScoreSpec:
        twice = sorted(self.bundle.keys() & self.beside.keys())
        if twice:
            raise ValueError(f"{twice[0]!r} is both in bundle and in beside")
        return self

    @model_validator(mode="after")
    def _a_cascade_is_of_two(self) -> ScoreSpec:
        if self.cascade is None:
            return self
        if list(self.bundle) != [""] or self.beside:
            raise ValueError("a cascade is of two bundles: `bundle` is one URI, and `beside` is left out")
        if self.output.writes_embedding(""):
            raise ValueError("embeddings of a cascade would be of two encoders: set output.embedding to false")
        return self

    @model_validator(mode="after")
    def _output_is_apart(self) -> ScoreSpec:
        inside = [uri for uri in self.corpus.uri if overlaps(uri, self.output.uri)]
        if inside:
            raise ValueError(f"output.uri and corpus.uri overlap ({inside[0]}): a run would read its own output")
        return self

    @model_validator(mode="after")
    def _embeddings_have_bundles(self) -> ScoreSpec:
        named = self.output.embedding
        unknown = [] if isinstance(named, bool) else [name for name in named if name not in self.bundles]
        if unknown:
            raise ValueError(f"output.embedding names {unknown[0]!r}, which is none of the bundles")
        return self

    @field_validator("corpus")
    @classmethod
    def _kept_names_are_free(cls, corpus: CorpusConfig) -> CorpusConfig:
        names = [written_name(name).lower() for name in corpus.keep]
        taken = sorted(set(names) & RESERVED_COLUMNS)
        if taken:
            raise ValueError(f"corpus.keep names columns that bertmill writes itself: {', '.join(taken)}")
        if len(set(names)) < len(names):
            raise ValueError(
                "corpus.keep names a column twice (in a table, upper and lower case or '.', ' ' and '_' are one)"
            )
        return corpus


class RetrievalConfig(SpecModel):
    """Queries, documents and what is relevant to what, to judge a search by embedding."""

    queries: Uris = Field(description="rows of an id and a text")
    documents: Uris = Field(description="rows of an id and a text")
    relevance: Uris = Field(description="rows of a query's id, a document's id and, unless all are 1, a gain")
    id: str = Field("id", description="column of a query's or a document's id")
    text: str = Field("text", description="column of its text")
    query_id: str = Field("query_id", description="column of the relevance rows: which query")
    document_id: str = Field("document_id", description="column of the relevance rows: which document answers it")
    gain: str = Field("relevance", description="column of gains; 0 or less is not relevant")
    max_bad_fraction: float = Field(0.0, ge=0, le=1, description="share of rows without usable text")


class CascadeTrial(SpecModel):
    """A smaller bundle to try before `bundle`, and from which scores on its answers would stand."""

    first: Uri = Field(description="bundle of the same task and labels, faster than `bundle`")
    min_scores: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99), min_length=1, description="each is tried"
    )


class EvaluateSpec(SpecModel):
    """Measure a bundle on labelled Parquet, alone or in a cascade, or its embeddings on a search."""

    bundle: Uri = Field(description="bundle written by `bertmill finetune`, or models://NAME@ALIAS")
    registry: Uri | None = Field(None, description="where models:// is looked up; default: $BERTMILL_REGISTRY")
    corpus: CorpusConfig | None = Field(None, description="labelled rows")
    retrieval: RetrievalConfig | None = Field(None, description="a search, instead of labelled rows")
    label: str | None = Field(
        None, description="column of true labels; default: the task's target name, if it needs one"
    )
    cascade: CascadeTrial | None = Field(None, description="what a smaller bundle first would cost and give")
    report: Uri | None = Field(None, description="URI of a JSON file to write the figures to")
    compute: ScoringCompute = ScoringCompute()
    storage: StorageConfig = StorageConfig()

    @model_validator(mode="after")
    def _measures_one_thing(self) -> EvaluateSpec:
        if (self.corpus is None) == (self.retrieval is None):
            raise ValueError("give either `corpus` (labelled rows) or `retrieval` (a search)")
        if self.cascade is not None and self.corpus is None:
            raise ValueError("a cascade is tried on labelled rows: give `corpus` instead of `retrieval`")
        return self

    @field_validator("corpus")
    @classmethod
    def _scoring_alone_has_its_fields(cls, corpus: CorpusConfig | None) -> CorpusConfig | None:
        if corpus is not None and corpus.corrupt_files == "skip":
            raise ValueError("corrupt_files: skip is for scoring; figures over part of the data would mislead")
        if corpus is not None and corpus.keep:
            raise ValueError("keep is for scoring: an evaluation writes no rows")
        return corpus
