"""A linear classifier on the frozen encoder's states, of the first token or of all: only the last layer is fitted."""

from __future__ import annotations

import time

from pipeline.finetune.fitted import fit_last_layer
from pipeline.finetune.loop import Judgements, LoopHooks, LoopJob, evaluate, figures_of
from pipeline.finetune.status import TrainingStatus


def fit_linear_head(job: LoopJob, hooks: LoopHooks) -> Judgements:
    """Fit the head's last layer by L-BFGS; the encoder stays as it is. Every rank comes to the same result.

    Returns:
        The judgements of validation rows; the same on every rank.
    """
    context = job.context
    (head,) = context.heads
    started_s = time.monotonic()
    fit = fit_last_layer(context, head, job.rank)
    judgements = evaluate(job)
    if job.rank == 0:
        rate = int(context.row_lengths.sum()) / (time.monotonic() - started_s)
        padding = 1 - int(context.row_lengths.sum()) / max(fit.num_padded_tokens, 1)
        remark = (f"regularisation C {fit.strength:g}",)
        hooks.report(TrainingStatus(1, 1, 0, fit.loss, 0.0, 0.0, rate, padding, figures_of(judgements) or None, remark))
    return judgements
