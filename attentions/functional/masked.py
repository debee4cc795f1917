"""Softmax attention under a mask that may leave a query without any key."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def masked_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    allowed: Tensor | None = None,
    *,
    bias: Tensor | None = None,
    is_causal: bool = False,
    dropout: float = 0.0,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(Q K^T / sqrt D) V over the allowed keys; zero for a query that has none.

    Torch's kernels differ there (NaN or zero, in outputs and gradients).

    Args:
        q: (B, H, M, D).
        k: (B, H, N, D).
        v: (B, H, N, D).
        allowed: Bool, broadcasts to (B, H, M, N), True where the query may attend to the key; the
            opposite of a padding mask. None for every key.
        bias: Added to the scores, broadcasts to (B, H, M, N). Costs the memory of all scores.
        is_causal: Whether query i may only attend to the keys up to i.
        dropout: Probability, on the attention weights.
        enable_gqa: Whether k and v have fewer heads, each read by an equal group of q's.

    Returns:
        (B, H, M, D).
    """
    options = {"dropout_p": dropout, "enable_gqa": enable_gqa}
    if allowed is None and bias is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=is_causal, **options)
    if allowed is None and not is_causal:
        assert bias is not None
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype), **options)
    if is_causal:
        earlier = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
        allowed = earlier if allowed is None else allowed & earlier
    assert allowed is not None
    some = allowed.any(dim=-1, keepdim=True)
    mask = allowed | ~some
    if bias is not None:
        mask = bias.to(q.dtype).masked_fill(~mask, -math.inf)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, **options)
    return out.masked_fill(~some, 0.0)
