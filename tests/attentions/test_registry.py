"""The folder of YAMLs as the list of mechanisms."""

import pytest
from omegaconf import OmegaConf

from attentions import registry
from attentions.base import Pattern
from attentions.softmax.softmax import SoftmaxAttention


def test_claims_follow_from_the_folder() -> None:
    claims = registry.claims()
    assert ("softmax", Pattern.CAUSAL_CROSS) in claims
    assert ("local_window", Pattern.CAUSAL_CROSS) not in claims
    assert {name for name, _ in claims} == set(registry.names())
    assert "custom" not in registry.names()


def test_a_factory_binds_the_settings() -> None:
    built = registry.factory(registry.load("gqa"))(16, 4, Pattern.CAUSAL_SELF, dropout=0.1)
    assert isinstance(built, SoftmaxAttention)
    assert (built.num_kv_heads, built.num_heads, built.dropout) == (1, 4, 0.1)


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown attention 'sofmax', did you mean 'softmax'\?"):
        registry.load("sofmax")
    with pytest.raises(ValueError, match=r"unknown attention 'xyz' \(known: .*linear_elu"):
        registry.load("xyz")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("no.such.module.Thing", "cannot import the attention 'no.such.module.Thing'"),
        ("attentions.base.Missing", "cannot import the attention 'attentions.base.Missing'"),
        ("torch.nn.Linear", "'torch.nn.Linear' must be a subclass of attentions.base.Attention"),
    ],
)
def test_a_bad_target_is_refused(target: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        registry.factory(OmegaConf.create({"_target_": target}))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("causal_sefl", "unknown pattern 'causal_sefl', did you mean 'causal_self'"),
        ("xyz", r"unknown pattern 'xyz' \(known: noncausal_self, causal_self"),
    ],
)
def test_an_unknown_pattern_is_refused_with_the_nearest(asked: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Pattern(asked)
