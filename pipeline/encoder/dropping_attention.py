"""Attention with dropout of its weights over one rectangle of windows, step by step, and its gradients.

On CPU these are passes over as many numbers as windows have pairs of tokens, so what a pass costs is what counts:
weights and dropout factors are kept in the values' dtype, no pass turns booleans into numbers (torch does that one by
one), and heads go through in pieces whose weights stay in the cache.

Shape letters: N windows, L tokens of the longest, Q of them that ask (all, or the first of each window), D numbers of a
head, B all heads of all windows.
"""

from __future__ import annotations

import torch

from pipeline.encoder.dropout import draw_factors

# 28 million weights in bf16 took 216 ms of CPU in pieces of this size, 268 in one.
_PIECE_WEIGHTS = 1 << 20


def attend_dropping(
    states: tuple[torch.Tensor, torch.Tensor, torch.Tensor], mask: torch.Tensor | None, scale: float, dropout: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What the tokens that ask get, and what gradients need.

    Args:
        states: Query [B, Q, D], key and value [B, L, D].
        mask: True where a key is seen: [N, 1, 1 or Q, L], or [Q, L]; None: everywhere.
        scale: Of query times key.
        dropout: The share of weights that is dropped.

    Returns:
        The output [B, Q, D], the weights before dropout and what dropout multiplies them by, [B, Q, L] each.
    """
    query_BQD, key_BLD, value_BLD = states
    weights_BQL = value_BLD.new_empty(*query_BQD.shape[:2], key_BLD.shape[1])
    factors_BQL, output_BQD = torch.empty_like(weights_BQL), torch.empty_like(query_BQD)
    bias_BQL = None if mask is None else _bias_of(mask, query_BQD)
    for piece in _pieces(weights_BQL):
        scores = _score(query_BQD[piece], key_BLD[piece], None if bias_BQL is None else bias_BQL[piece], scale)
        at_least_fp32 = torch.promote_types(scores.dtype, torch.float32)
        weights, factors = weights_BQL[piece], factors_BQL[piece]
        weights.copy_(torch.softmax(scores, dim=-1, dtype=at_least_fp32))
        factors.copy_(draw_factors(factors.shape, dropout, factors))
        torch.bmm(weights * factors, value_BLD[piece], out=output_BQD[piece])
    return output_BQD, weights_BQL, factors_BQL


def pull_back(
    pull_BQD: torch.Tensor,
    states: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    weights_BQL: torch.Tensor,
    factors_BQL: torch.Tensor,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of query, key and value from the output's, [B, Q, D]."""
    query_BQD, key_BLD, value_BLD = states
    of_query, of_key, of_value = (torch.empty_like(part) for part in states)
    at_least_fp32 = torch.promote_types(weights_BQL.dtype, torch.float32)
    for piece in _pieces(weights_BQL):
        pull, weights, factors = pull_BQD[piece], weights_BQL[piece], factors_BQL[piece]
        torch.bmm((weights * factors).transpose(1, 2), pull, out=of_value[piece])
        of_weights = torch.bmm(pull, value_BLD[piece].transpose(1, 2)).mul_(factors).to(at_least_fp32)
        of_scores = torch._softmax_backward_data(of_weights, weights.to(at_least_fp32), -1, at_least_fp32)
        of_scores = of_scores.to(pull.dtype)
        of_query[piece].baddbmm_(of_scores, key_BLD[piece], beta=0, alpha=scale)
        of_key[piece].baddbmm_(of_scores.transpose(1, 2), query_BQD[piece], beta=0, alpha=scale)
    return of_query, of_key, of_value


def _score(query: torch.Tensor, key: torch.Tensor, bias: torch.Tensor | None, scale: float) -> torch.Tensor:
    if bias is not None:
        return torch.baddbmm(bias, query, key.transpose(1, 2), alpha=scale)
    scores = query.new_empty(*query.shape[:2], key.shape[1])
    return scores.baddbmm_(query, key.transpose(1, 2), beta=0, alpha=scale)


def _bias_of(mask: torch.Tensor, query_BQD: torch.Tensor) -> torch.Tensor:
    """What is added to scores: 0 where a key is seen, the lowest number elsewhere; [B, 1 or Q, L]."""
    bias = query_BQD.new_zeros(mask.shape).masked_fill_(~mask, torch.finfo(query_BQD.dtype).min)
    if bias.ndim == 2:
        return bias.expand(len(query_BQD), -1, -1)
    num_heads = len(query_BQD) // len(bias)
    return bias.expand(-1, num_heads, -1, -1).flatten(0, 1)


def _pieces(weights_BQL: torch.Tensor) -> list[slice]:
    """Heads that go through together: all of them, but on CPU; whatever the threads, whose number decides no mask."""
    count, of_a_head = len(weights_BQL), weights_BQL.shape[1] * weights_BQL.shape[2]
    step = max(_PIECE_WEIGHTS // of_a_head, 1) if weights_BQL.device.type == "cpu" else max(count, 1)
    return [slice(start, start + step) for start in range(0, count, step)]
