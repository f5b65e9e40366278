"""What the user writes for `bertmill duplicates`, `topics` and `index`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, PositiveInt, model_validator

from pipeline.config import Seed, SpecModel, StorageConfig, Uri
from pipeline.schema import EMBEDDING, SOURCE_FILE, SOURCE_ROW
from pipeline.uris import overlaps


class VectorsConfig(SpecModel):
    """Which embeddings of a night are looked at, and where what is found goes."""

    table: Uri = Field(description="a scored table with embeddings")
    column: str = Field(EMBEDDING, description="the column of embeddings; of a named bundle: NAME_embedding")
    keep: tuple[str, ...] = Field((), description="columns of the table that the result repeats")
    output: Uri = Field(description="URI under which results go: a folder for each night")
    keep_hours: float = Field(24.0, ge=0, description="hours for which a replaced result of a night stays")
    work: str | None = Field(
        None,
        description="local folder for the night's vectors while the job runs, made if it is not there; default: the "
        "system's temporary one",
    )
    storage: StorageConfig = StorageConfig()

    @model_validator(mode="after")
    def _places_and_names(self) -> VectorsConfig:
        if overlaps(self.table, self.output):
            raise ValueError(f"output and table overlap ({self.output}): `bertmill table vacuum` owns the table")
        taken = {SOURCE_FILE, SOURCE_ROW, *self.added_columns()} & set(self.keep)
        if taken or len(set(self.keep)) < len(self.keep):
            named = ", ".join(sorted(taken))
            raise ValueError(f"keep names {named}, which the result has anyway" if taken else "keep names one twice")
        return self

    def added_columns(self) -> frozenset[str]:
        """Names that the result has of its own."""
        return frozenset()

    def facts(self) -> dict[str, Any]:
        """The fields that a result depends on."""
        return self.model_dump(mode="json", exclude={"output", "keep_hours", "work", "storage"})


class DuplicatesSpec(VectorsConfig):
    """Find groups of rows that are nearly the same, by the cosine of their embeddings."""

    threshold: float = Field(0.95, gt=0, le=1, description="least cosine of two rows that are joined")
    block_rows: int = Field(
        4_096, ge=16, description="rows compared at a time: memory, and nothing of the result, depends on it"
    )

    def added_columns(self) -> frozenset[str]:
        """Names that the result has of its own."""
        return frozenset({"group_id", "group_rows", "is_representative", "similarity"})

    def facts(self) -> dict[str, Any]:
        """The fields that a result depends on."""
        return {name: value for name, value in super().facts().items() if name != "block_rows"}


class TopicsSpec(VectorsConfig):
    """Cut a night into topics by its embeddings, and name each by the words that tell it from the others."""

    num_topics: int = Field(20, ge=2, le=1_000, description="clusters looked for")
    text: str | None = Field(
        "text", description="column of the texts: of the table if it was kept, else of the corpus; null: no words"
    )
    num_words: PositiveInt = Field(10, description="words that name a topic")
    phrase_words: PositiveInt = Field(1, description="words of the longest phrase that counts as one word")
    num_examples: int = Field(3, ge=0, description="texts nearest to a topic's centre that are shown")
    sample_rows: int = Field(100_000, ge=100, description="rows that centres and words are found from; all get a topic")
    seed: Seed = Field(1, description="of the sample and of the first centres")

    def added_columns(self) -> frozenset[str]:
        """Names that the result has of its own."""
        return frozenset({"topic", "similarity"})


class IndexSpec(VectorsConfig):
    """Build an index of a night's embeddings, for searches."""

    kind: Literal["hnsw", "flat"] = Field("hnsw", description="hnsw: approximate, fast; flat: exact, over all rows")
