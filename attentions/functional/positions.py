"""Positions inside attention: rotary ones turn q and k, ALiBi's add to the scores.

Shapes: B batch, H heads, M query length, N context length, D head_dim.
"""

import torch
from torch import Tensor


def rotate(x: Tensor, positions: Tensor, base: float) -> Tensor:
    """Turn x to its positions, so that a product of two rows depends on their distance.

    The dimensions i and i + D / 2 make a pair, which turns by base^(-2 i / D) at each position, in
    float32 at least: in bfloat16 the angle of position 257 would be that of 256.
    Source: Su et al., "RoFormer", 2021, arXiv:2104.09864, which pairs neighbours; as here in Llama.

    Args:
        x: (B, H, N, D), D even.
        positions: (1 or B, N).
        base: Of the wavelengths; 10,000 in the paper.

    Returns:
        (B, H, N, D).
    """
    precise = torch.promote_types(x.dtype, torch.float32)
    pair = torch.arange(0, x.shape[-1], 2, device=x.device, dtype=precise)
    angle = positions[:, None, :, None].to(precise) * base ** (-pair / x.shape[-1])
    cos, sin = angle.cos(), angle.sin()
    a, b = x.to(precise).chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).to(x.dtype)


def alibi(num_heads: int, queries: Tensor, keys: Tensor) -> Tensor:
    """ALiBi's bias -slope_h |i - j| of the scores.

    Source: Press et al., "Train Short, Test Long", ICLR 2022, arXiv:2108.12409.

    Args:
        num_heads: H.
        queries: Their positions (M,).
        keys: Their positions (N,).

    Returns:
        (H, M, N), float32.
    """
    slopes = alibi_slopes(num_heads, queries.device)
    return -slopes[:, None, None] * (queries[:, None] - keys).abs()


def alibi_slopes(num_heads: int, device: torch.device) -> Tensor:
    """The slopes of H heads, float32 (H,).

    For H = 2^n they are 2^(-8 h / H), h from 1 to H; for another H those of the power of two below,
    then every second one of the power above, as in the code of the paper.
    """

    def of(heads: int) -> Tensor:
        return torch.exp2(-8.0 / heads * torch.arange(1, heads + 1, device=device))

    below = 1 << (num_heads.bit_length() - 1)
    return torch.cat([of(below), of(2 * below)[::2][: num_heads - below]])
