"""Attention of short windows on CPU, in two products over all heads of all windows.

torch's own kernel goes through windows one by one, and its softmax is slow over few keys. Here exponentials of all
scores are taken at once, and a column of ones beside the values gives each token's sum. They are not shifted by the
highest score first, which floats have room for; where they had not, the sums show it, and torch's kernel does the work.
What all keys of a window have in common would shift all scores of a token, which changes no result but, as bf16 rounds
scores, its precision: the mean key is subtracted first.

Shape letters: N windows, L tokens of each, Q of them that ask, H heads, D numbers of a head, B heads of all windows.
"""

from __future__ import annotations

import torch

# Measured on 2 cores with avx512_bf16, 12 heads of 32 and of 64 numbers, 4,096 tokens (docs/decisions.md): two to four
# times faster below 50 tokens in bf16; in fp32 only where products are small.
_MAX_BF16_TOKENS = 256
_MAX_FP32_NUMBERS = 832
_SMALLEST_SUM, _LARGEST_SUM = 1e-30, 1e30


def is_short(query_NQHD: torch.Tensor, key_NLHD: torch.Tensor, value_NLHD: torch.Tensor) -> bool:
    """Whether windows are faster this way; gradients are not known here."""
    if key_NLHD.device.type != "cpu" or torch.is_grad_enabled():
        return False
    dtypes, (length, _, head_size) = {part.dtype for part in (query_NQHD, key_NLHD, value_NLHD)}, key_NLHD.shape[1:]
    if dtypes == {torch.bfloat16}:
        return length <= _MAX_BF16_TOKENS
    return dtypes == {torch.float32} and length * head_size <= _MAX_FP32_NUMBERS


def attend_short(
    query_NQHD: torch.Tensor,
    key_NLHD: torch.Tensor,
    value_NLHD: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
) -> torch.Tensor | None:
    """What the tokens that ask get: [N, Q, H, D]; None where a score is too high, or all of a token's too low, for it.

    Args:
        query_NQHD: Of the tokens that ask.
        key_NLHD: Of all tokens.
        value_NLHD: The same.
        mask: True where a key is seen, to be broadcast to [N, H, Q, L]; None: everywhere.
        scaling: Of query times key; None: one over the root of D.
    """
    num_windows, num_asking, num_heads, size = query_NQHD.shape
    scale = size**-0.5 if scaling is None else scaling
    query_BQD, key_BLD = by_head(query_NQHD), by_head(key_NLHD)
    key_BLD = key_BLD - key_BLD.mean(dim=1, keepdim=True)
    scores_BQL = query_BQD.new_empty(*query_BQD.shape[:2], key_BLD.shape[1])
    scores_BQL.baddbmm_(query_BQD, key_BLD.transpose(1, 2), beta=0, alpha=scale).exp_()
    if mask is not None:
        scores_BQL.view(num_windows, num_heads, *scores_BQL.shape[1:]).masked_fill_(~mask, 0.0)
    value_NHLE = value_NLHD.new_ones(num_windows, num_heads, value_NLHD.shape[1], size + 1)
    value_NHLE[..., :size] = value_NLHD.transpose(1, 2)
    found_NHQE = torch.bmm(scores_BQL, value_NHLE.flatten(0, 1)).view(num_windows, num_heads, num_asking, size + 1)
    sums_NHQ1 = found_NHQE[..., size:]
    is_outside_NHQ1 = (sums_NHQ1 < _SMALLEST_SUM) | (sums_NHQ1 > _LARGEST_SUM)  # no NaN is: it is one in any kernel
    if is_outside_NHQ1.any():
        return None
    output_NQHD = torch.empty_like(query_NQHD, memory_format=torch.contiguous_format)
    torch.div(found_NHQE[..., :size], sums_NHQ1, out=output_NQHD.transpose(1, 2))
    return output_NQHD


def by_head(states_NLHD: torch.Tensor) -> torch.Tensor:
    """[N, L, H, D] -> [B, L, D]."""
    return states_NLHD.transpose(1, 2).flatten(0, 1).contiguous()
