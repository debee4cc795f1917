"""Maps read off by one-hot values, against weights that are written down."""

import pytest
import torch
from torch import Tensor

from attentions.base import MultiHeadAttention, Pattern
from attentions.recurrent import delta
from attentions.recurrent.delta import DeltaRuleAttention
from attentions.softmax.softmax import SoftmaxAttention
from runners.analysis.maps import NoMap, Pass, attention_map, recorded
from tests.attentions.claims import CLAIMS, build, draw, each, inputs
from tests.oracles import heads

CROSS = (Pattern.NONCAUSAL_CROSS, Pattern.CAUSAL_CROSS)
UNREAD = {
    **dict.fromkeys(("base_conv", "hyena", "s4d", "linformer", "none"), tuple(Pattern)),
    **dict.fromkeys(("abc", "selective_ssa", "longshort"), tuple(Pattern)),
    **dict.fromkeys(("gla", "hgrn2", "lightning", "retention"), CROSS),
    **dict.fromkeys(("deltanet", "gated_deltanet"), (Pattern.NONCAUSAL_SELF, *CROSS)),
    "mamba2": (Pattern.NONCAUSAL_SELF,),
    "longformer": (Pattern.NONCAUSAL_SELF,),  # global keys have values of their own
}
"""The claims without a map; those of a scan are read in causal self, some in noncausal self."""
OTHER_SUMS = {
    *("deltanet", "gated_deltanet", "gla", "hgrn2", "lightning", "mamba2", "retention"),
    *("flow", "moh", "nystrom", "sinkhorn"),
    *("cosformer", "routing"),  # some of their queries see nothing
}
"""Those whose rows need not sum to 1."""


def seen(attention: torch.nn.Module, *inputs: Tensor | None, **masks: Tensor) -> Pass:
    with torch.no_grad(), recorded([attention]) as (found,):  # type: ignore[list-item]
        attention(*inputs, **masks)
    return found


@each(CLAIMS)
def test_a_map_is_read_or_the_mechanism_says_why_not(name: str, pattern: Pattern) -> None:
    found = seen(build(name, pattern), *inputs(pattern, 20))
    if pattern in UNREAD.get(name, ()):
        with pytest.raises(NoMap, match=r"nor a scan|not linear in its values|two directions"):
            attention_map(found)
        return
    weights, of = attention_map(found)
    assert (weights.shape[0], *weights.shape[2:]) == (2, 20, 20 if not pattern.is_cross else 13)
    if pattern is Pattern.CAUSAL_SELF:
        torch.testing.assert_close(weights, weights.tril())
    if name not in OTHER_SUMS:
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones_like(weights[..., 0]))
        assert of == "mix"


@each([claim for claim in CLAIMS if claim[0] == "softmax"])
def test_softmax_has_its_own_weights(name: str, pattern: Pattern) -> None:
    attention = build(name, pattern)
    query, context = inputs(pattern, 21)  # no whole number of heads' widths
    keys = query if context is None else context
    mask = torch.zeros(keys.shape[:2], dtype=torch.bool)
    mask[1, -3:] = True
    weights, _ = attention_map(seen(attention, query, context, key_padding_mask=mask))
    q, k, _ = heads(attention, query, keys)
    scores = (q @ k.mT / 8**0.5).masked_fill(mask[:, None, None], -torch.inf)
    if pattern is Pattern.CAUSAL_SELF:
        scores = scores.masked_fill(torch.ones_like(scores).triu(1) > 0, -torch.inf)
    torch.testing.assert_close(weights, scores.softmax(dim=-1))


def test_heads_that_share_values_have_a_map_each() -> None:
    attention = build("gqa", Pattern.CAUSAL_SELF, num_kv_heads=1)
    query, _ = inputs(Pattern.CAUSAL_SELF, 9)
    weights, _ = attention_map(seen(attention, query))
    assert weights.shape == (2, 2, 9, 9)
    assert not torch.allclose(weights[:, 0], weights[:, 1])


def test_linear_attention_has_the_weights_of_its_dense_form() -> None:
    attention = build("linear_elu", Pattern.CAUSAL_SELF)
    query, _ = inputs(Pattern.CAUSAL_SELF, 70)  # over a border of the scan's chunks
    weights, of = attention_map(seen(attention, query))
    q, k, _ = heads(attention, query, query)
    dense = ((torch.where(q > 0, q + 1, q.exp())) @ torch.where(k > 0, k + 1, k.exp()).mT).tril()
    assert of == "mix"
    torch.testing.assert_close(weights, dense / (dense.sum(dim=-1, keepdim=True) + 1e-6))


def test_a_delta_rule_has_the_map_of_its_recurrence(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Tensor] = []
    rule = delta.delta_rule

    def spied(*qkv_beta: Tensor, **settings: str) -> tuple[Tensor, Tensor]:
        given[:] = given or [x for x in qkv_beta if x is not None]
        return rule(*qkv_beta, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(delta, "delta_rule", spied)
    attention = build("deltanet", Pattern.CAUSAL_SELF)
    assert isinstance(attention, DeltaRuleAttention)
    query, _ = inputs(Pattern.CAUSAL_SELF, 70)
    weights, of = attention_map(seen(attention, query))
    assert of == "delta_rule"
    q, k, _, beta = given
    # The state as a sum over writes: row j is what position j wrote, as later ones left it of it.
    written = torch.zeros(*q.shape[:2], 70, q.shape[-1], dtype=q.dtype)
    expected = torch.zeros_like(weights)
    for i in range(70):
        key, rate = k[:, :, i, None], beta[:, :, i, None, None]
        written = written - rate * (written @ key.mT) @ key
        written[:, :, i] += (rate * key)[:, :, 0]
        expected[:, :, i] = (written @ q[:, :, i, :, None])[..., 0]
    torch.testing.assert_close(weights, expected)


class Squares(SoftmaxAttention):
    """No sum of its values."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor, **masks: Tensor | None) -> Tensor:
        return super().mix(q, k, v.square(), **masks)


class ByChannel(MultiHeadAttention):
    """Linear in its values, but in each of their channels with another map."""

    patterns = frozenset(Pattern)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, **masks: Tensor | None) -> Tensor:
        return v.mean(dim=2, keepdim=True).expand_as(q) * torch.arange(q.shape[-1])


@pytest.mark.parametrize("cls", [Squares, ByChannel])
def test_what_is_no_map_is_not_taken_for_one(cls: type[MultiHeadAttention]) -> None:
    attention = cls(16, 2, Pattern.NONCAUSAL_SELF).double()
    with pytest.raises(NoMap, match="not linear in its values, as those of a map would be"):
        attention_map(seen(attention, draw(1, 2, 6, 16)))


def test_recording_leaves_nothing_behind() -> None:
    attention = build("deltanet", Pattern.CAUSAL_SELF)
    query, _ = inputs(Pattern.CAUSAL_SELF, 6)
    before = set(vars(attention)), delta.delta_rule
    expected = attention(query)
    torch.testing.assert_close(attention(query), expected, rtol=0, atol=0)
    assert seen(attention, query).num_uses == 1
    with pytest.raises(ValueError, match="embed_dim = 16"):
        seen(attention, query[..., :-1])
    assert (set(vars(attention)), delta.delta_rule) == before
