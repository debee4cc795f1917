"""Flow-attention from the whole matrix of flows, sample by sample without its padding."""

from typing import Any

import torch
from torch import Tensor

from tests.oracles import heads, merge

BLOCK = 64  # the chunk of the causal scan


def oracle(
    attention: Any,
    query: Tensor,
    context: Tensor,
    query_padding_mask: Tensor,
    key_padding_mask: Tensor,
) -> Tensor:
    q, k, v = heads(attention, query, context)
    form = causal if attention.pattern == "causal_self" else noncausal
    out = torch.zeros_like(q)
    for b in range(len(q)):
        queries = (~query_padding_mask[b]).nonzero().flatten()
        keys = (~key_padding_mask[b]).nonzero().flatten()
        if len(queries) and len(keys):
            for h in range(q.shape[1]):
                rows = form(q[b, h, queries], k[b, h, keys], v[b, h, keys], attention)
                out = out.index_put((torch.tensor(b), torch.tensor(h), queries), rows)
    return merge(attention, out)


def noncausal(q: Tensor, k: Tensor, v: Tensor, attention: Any) -> Tensor:
    eps = attention.eps
    n, m = len(q), len(k)
    phi_q, phi_k = 1 / (1 + (-q).exp()), 1 / (1 + (-k).exp())
    incoming = (phi_q + eps) @ (phi_k.sum(dim=0) + eps)
    outgoing = (phi_k + eps) @ (phi_q.sum(dim=0) + eps)
    arrives = (phi_q + eps) @ ((phi_k / outgoing[:, None]).sum(dim=0) + eps)
    leaves = (phi_k + eps) @ ((phi_q / incoming[:, None]).sum(dim=0) + eps)
    weights = leaves.clamp(max=attention.clamp).exp()
    weights = m * weights / weights.sum()
    flows = phi_q @ phi_k.T / incoming[:, None] * weights
    return flows @ v / (1 + (-arrives * n / m).exp())[:, None]


def causal(q: Tensor, k: Tensor, v: Tensor, attention: Any) -> Tensor:
    eps = attention.eps
    phi_q, phi_k = 1 / (1 + (-q).exp()), 1 / (1 + (-k).exp())
    incoming, outgoing, weights, shares, rows = [], [], [], [], []
    for t in range(1, len(q) + 1):
        past_q, past_k = phi_q[:t], phi_k[:t]
        at_q, at_k = phi_q[t - 1] + eps, phi_k[t - 1] + eps
        incoming.append(at_q @ (past_k.sum(dim=0) + eps) / t)
        outgoing.append(at_k @ (past_q.sum(dim=0) + eps) / t)
        arrives = at_q @ ((past_k / torch.stack(outgoing)[:, None]).sum(dim=0) + eps) / t
        leaves = at_k @ ((past_q / torch.stack(incoming)[:, None]).sum(dim=0) + eps) / t
        weights.append(leaves.clamp(max=attention.clamp).exp())
        shares.append(t * weights[-1] / sum(weights))
        flows = past_k @ phi_q[t - 1] / (t * incoming[-1]) * torch.stack(shares)
        rows.append(flows @ v[:t] / (1 + (-arrives).exp()))
    return torch.stack(rows)
