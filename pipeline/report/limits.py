"""What the user writes about reports: how much a night may differ from the last one before it is said, or fails."""

from __future__ import annotations

from pydantic import Field

from pipeline.config import SpecModel


class DriftLimits(SpecModel):
    """The most of each figure that goes without saying; null: no limit."""

    rows_change: float | None = Field(
        None, ge=0, description="change of the number of rows, as a share of last night's"
    )
    label_psi: float | None = Field(None, ge=0, description="population stability index of any label column")
    score_psi: float | None = Field(
        None, ge=0, description="the same of any column of scores, over last night's deciles"
    )
    embedding_shift: float | None = Field(None, ge=0, description="1 - cosine of the two nights' mean embeddings")
    unknown_share: float | None = Field(None, ge=0, description="tokens that the vocabulary does not have")
    truncated_share: float | None = Field(None, ge=0, description="rows whose text was cut")
    quarantined_share: float | None = Field(None, ge=0, description="rows that could not be scored")


class WarnLimits(DriftLimits):
    """Limits beyond which a report warns."""

    label_psi: float | None = Field(0.2, ge=0, description="population stability index of any label column")
    score_psi: float | None = Field(
        0.2, ge=0, description="the same of any column of scores, over last night's deciles"
    )
    embedding_shift: float | None = Field(0.05, ge=0, description="1 - cosine of the two nights' mean embeddings")


class ReportConfig(SpecModel):
    """The report that is written of each published night."""

    warn: WarnLimits = WarnLimits()
    fail: DriftLimits = Field(
        DriftLimits(), description="beyond any of these the night is published all the same, and the exit status is 8"
    )
    sample_rows: int = Field(200_000, ge=1, description="rows of each night that distributions and movers are from")
