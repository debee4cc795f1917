"""Sparse Sinkhorn attention: each block attends to itself and to one block made by soft sorting.

Source: Tay et al., "Sparse Sinkhorn Attention", ICML 2020, arXiv:2002.11296; with the keys as input
of the sorting network, as in LRA's code.
Departs from it: in the causal pattern the columns are normalised over the rows so far, since a sum
over all rows would show later blocks to earlier ones.
Departs from LRA's code (cd31e5c), which by default sorts by one softmax over the blocks, without
Sinkhorn's iterations, and adds the outputs of two softmaxes, over the own block and over the sorted
one: here one softmax has both, as in sinkhorn-transformer. There all heads share one sorting
network, with biases; here each has its own, without. There blocks are every so many positions apart
(a reshape), and each sorted one is the sum of all blocks (an einsum); here they are contiguous, and
it is their weighted sum.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attentions.base import MultiHeadAttention, Pattern
from attentions.functional.chunks import in_chunks
from attentions.functional.masked import masked_attention

_UNALIGNED = "nothing says which block of the context belongs to which query"
_NOTHING = -1e30  # the logarithm of zero, but finite


class SinkhornAttention(MultiHeadAttention):
    """softmax(Q_i [K_i; K'_i]^T / sqrt D) [V_i; V'_i] for block i, where K' = P K and V' = P V.

    P mixes blocks, position by position: exp(logits / temperature) with rows and columns divided
    by their sums, in turn. The logits of row i are W^T times the sum of the keys of block i;
    causal: of all keys up to the first of block i, and the row mixes earlier blocks only. Needs
    `max_len`, for W has a column per block, and refuses longer inputs.

    Args:
        block_size: Positions per block.
        num_iterations: How often rows and columns are normalised.
        temperature: The lower, the nearer is P to a permutation.
        gumbel_noise: Whether Gumbel noise is added to the logits in training.
    """

    patterns = frozenset({Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_SELF})
    refuses: ClassVar = {Pattern.NONCAUSAL_CROSS: _UNALIGNED, Pattern.CAUSAL_CROSS: _UNALIGNED}
    drops_weights = True
    trains_otherwise = "Gumbel noise is added to the logits of the sorting"
    full_precision = True

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        pattern: Pattern,
        *,
        block_size: int,
        num_iterations: int,
        temperature: float = 1.0,
        gumbel_noise: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern, **common)
        if block_size < 1 or num_iterations < 1:
            self._fail(
                "block_size and num_iterations must be positive, "
                f"got {block_size} and {num_iterations}"
            )
        if not temperature > 0:
            self._fail(f"temperature must be positive, got {temperature}")
        if self.max_len is None:
            self._fail("needs max_len, which says how many blocks there can be, got None")
        assert self.max_len is not None
        self.block_size = block_size
        self.num_iterations = num_iterations
        self.temperature = temperature
        self.gumbel_noise = gumbel_noise
        self.max_blocks = -(-self.max_len // block_size)
        self.sort_net = nn.Parameter(torch.empty(num_heads, self.head_dim, self.max_blocks))
        for weight in self.sort_net:
            nn.init.xavier_uniform_(weight)

    def mix(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        query_padding_mask: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> Tensor:
        """See `MultiHeadAttention.mix`."""
        batch_size, _, length, _ = q.shape
        self._check_length(length)
        real = torch.ones(1, length, 1, dtype=torch.bool, device=q.device)
        if key_padding_mask is not None:
            real = ~key_padding_mask[..., None]
            k, v = (x.masked_fill(~real[:, None], 0.0) for x in (k, v))
        q, k, v = (in_chunks(x, self.block_size) for x in (q, k, v))  # (B, H, T, b, D)
        real = in_chunks(real, self.block_size)[..., 0]  # (1 or B, T, b)
        hidden = allowed = None
        whole = key_padding_mask is None and length % self.block_size == 0
        if self.pattern is Pattern.CAUSAL_SELF or not whole:
            hidden = self._hidden(real.any(dim=-1))
            allowed = self._allowed(real, hidden).expand(batch_size, -1, -1, -1)
            allowed = allowed.flatten(0, 1)[:, None]
        mixing = self._balance(self._logits(k), hidden)
        # Each block is a sample of its own, (B T, H, b, D): of projected heads a view.
        q = q.transpose(1, 2).flatten(0, 1)
        k, v = (
            torch.cat([x.transpose(1, 2), _mixed(mixing, x).transpose(1, 2)], dim=-2).flatten(0, 1)
            for x in (k, v)
        )
        dropout = self.dropout if self.training else 0.0
        out = masked_attention(q, k, v, allowed, dropout=dropout)
        out = out.transpose(1, 2).unflatten(0, (batch_size, -1)).flatten(1, 2)  # (B, T b, H, D)
        return out[:, :length].transpose(1, 2)

    def absorb(
        self,
        memory: Mapping[str, Tensor],
        k: Tensor,
        v: Tensor,
        *,
        position: int = 0,
        key_padding_mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Keep every key and value, in buffers for `max_len`, and the sorted block of the last."""
        end = position + k.shape[-2]
        self._check_length(end)
        if not memory:
            blocks = k.new_zeros(*k.shape[:2], self.max_blocks, self.block_size, self.head_dim)
            memory = {"k": blocks, "v": blocks.clone()}
        kept = {name: memory[name] for name in ("k", "v")}
        for name, x in (("k", k), ("v", v)):
            kept[name].flatten(2, 3)[:, :, position:end] = x
        if (end - 1) // self.block_size == (position - 1) // self.block_size:
            return dict(memory)  # no new block has begun
        num_blocks = (end - 1) // self.block_size + 1
        begun = kept["k"][:, :, :num_blocks]
        hidden = self._hidden(torch.ones(1, num_blocks, dtype=torch.bool, device=k.device))
        mixing = self._balance(self._logits(begun), hidden)[:, :, -1:]
        for name, x in list(kept.items()):
            kept[f"sorted_{name}"] = _mixed(mixing, x[:, :, :num_blocks])[:, :, 0]
        return kept

    def read(self, q: Tensor, memory: Mapping[str, Tensor], *, position: int = 0) -> Tensor:
        """Softmax over the block so far and its sorted block."""
        block, filled = position // self.block_size, position % self.block_size + 1
        k, v = (memory[name][:, :, block, :filled] for name in ("k", "v"))
        if block:
            k = torch.cat([k, memory["sorted_k"]], dim=-2)
            v = torch.cat([v, memory["sorted_v"]], dim=-2)
        return masked_attention(q, k, v)

    def memory_elements(self, length: int) -> int:
        """Keys and values of all blocks of `max_len` and of a sorted one: 2 (T + 1) b E."""
        return self.num_kv((self.max_blocks + 1) * self.block_size)

    def _check_length(self, length: int) -> None:
        assert self.max_len is not None
        if length > self.max_len:
            self._fail(f"a sequence of length {length} is longer than max_len = {self.max_len}")

    def _logits(self, k: Tensor) -> Tensor:
        """The sorting network, on blocks of keys (B, H, T, b, D): (B, H, T, T)."""
        sums = k.sum(dim=-2)
        if self.pattern is Pattern.CAUSAL_SELF:
            sums = F.pad(sums.cumsum(dim=-2), (0, 0, 1, -1)) + k[..., 0, :]
        return sums @ self.sort_net[..., : k.shape[2]].to(k.dtype)

    def _hidden(self, has_any: Tensor) -> Tensor:
        """Where P is zero: at blocks of padding, and if causal above the diagonal and on it.

        Args:
            has_any: Bool (1 or B, T), whether the block has a position that is no padding.

        Returns:
            Bool (1 or B, T, T).
        """
        hidden = ~(has_any[:, :, None] & has_any[:, None, :])
        if self.pattern is Pattern.CAUSAL_SELF:
            hidden = hidden | torch.ones_like(hidden).triu()
        return hidden

    def _allowed(self, real: Tensor, hidden: Tensor) -> Tensor:
        """Which query sees which key of its own block and of the sorted one.

        Args:
            real: Bool (1 or B, T, b), False for padding.
            hidden: As `_hidden` gives it.

        Returns:
            Bool (1 or B, T, b, 2 b).
        """
        own = real[:, :, None].expand(-1, -1, self.block_size, -1)
        if self.pattern is Pattern.CAUSAL_SELF:
            own = own.tril()
        # A place of the sorted block is a key if any block that may be mixed has one there.
        sorted_real = (~hidden).float() @ real.float() > 0
        of_sorted = sorted_real[:, :, None].expand(-1, -1, self.block_size, -1)
        return torch.cat([own, of_sorted], dim=-1)

    def _balance(self, logits: Tensor, hidden: Tensor | None) -> Tensor:
        """Sinkhorn's normalisation in logarithms: (B, H, T, T) and `_hidden`'s to P."""

        def shown(log_p: Tensor) -> Tensor:
            return log_p if hidden is None else log_p.masked_fill(hidden[:, None], _NOTHING)

        if self.training and self.gumbel_noise:
            logits = logits - torch.empty_like(logits).exponential_().log()
        log_p = shown(logits / self.temperature)
        for _ in range(self.num_iterations):
            log_p = shown(log_p - log_p.logsumexp(dim=-1, keepdim=True))
            if self.pattern is Pattern.CAUSAL_SELF:
                log_p = shown(log_p - log_p.logcumsumexp(dim=-2))
            else:
                log_p = shown(log_p - log_p.logsumexp(dim=-2, keepdim=True))
        return log_p.exp()


def _mixed(mixing: Tensor, blocks: Tensor) -> Tensor:
    """P (B, H, S, T) times blocks (B, H, T, b, D): (B, H, S, b, D)."""
    return (mixing @ blocks.flatten(-2)).unflatten(-1, blocks.shape[-2:])
