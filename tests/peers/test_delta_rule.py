"""DeltaNet beside flash-linear-attention's delta rule in plain PyTorch, given the same weights."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attentions.base import Pattern
from tests.attentions.claims import build, draw
from tests.peers import peer

pytestmark = pytest.mark.slow  # the import alone takes eight seconds

LENGTH = 96  # of fla's chunks of 32, which must fit; more than one of ours


@pytest.mark.parametrize("form", ["delta_rule_recurrence", "delta_rule_chunkwise"])
def test_deltanet_equals_the_layer_around_flas_delta_rule(form: str) -> None:
    delta_rule = getattr(peer("fla.ops.delta_rule.naive"), form)
    attention: Any = build("deltanet", Pattern.CAUSAL_SELF).float()
    x = draw(0, 2, LENGTH, 16).float()

    def features(name: str) -> Tensor:
        proj, weight = getattr(attention, f"{name}_proj"), getattr(attention, f"{name}_conv")
        convolved = F.conv1d(proj(x).mT, weight[:, None], padding=3, groups=16)[..., :LENGTH]
        return F.silu(convolved).unflatten(1, (2, 8)).mT

    q, k = (F.normalize(features(name), dim=-1) for name in "qk")
    beta = attention.beta_proj(x).sigmoid().mT
    expected, _ = delta_rule(q, k, features("v"), beta)
    expected = F.rms_norm(expected, (8,), attention.norm, attention.eps)
    expected = attention.out_proj(expected.transpose(1, 2).flatten(-2))
    # Float32, and 1e-6 beside the squared norm of q and k, which is of the order of 0.1.
    torch.testing.assert_close(attention(x), expected, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_gated_deltanet_equals_the_layer_of_qwen3_next(monkeypatch: pytest.MonkeyPatch) -> None:
    module = peer("transformers.models.qwen3_next.modeling_qwen3_next")
    for name in ("torch_chunk_gated_delta_rule", "causal_conv1d_fn"):
        # Where fla is installed, transformers takes its kernels, which need a GPU.
        monkeypatch.setattr(module, name, getattr(module, name).__wrapped__)
    config = module.Qwen3NextConfig(
        hidden_size=16,
        linear_num_key_heads=2,
        linear_num_value_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=16,
        rms_norm_eps=1e-5,
        num_hidden_layers=1,
    )
    theirs = module.Qwen3NextGatedDeltaNet(config, 0)
    ours: Any = build("gated_deltanet", Pattern.CAUSAL_SELF).float()
    for name, parameter in ours.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
    projs = [getattr(ours, f"{name}_proj").weight for name in ("q", "k", "v", "gate")]
    # Theirs has the rows of one head together: its q, k, v and gate, then those of the next.
    by_head = [weight.unflatten(0, (2, -1)) for weight in projs]
    theirs.in_proj_qkvz.weight.copy_(torch.cat(by_head, dim=1).flatten(0, 1))
    rates = [ours.beta_proj.weight, ours.decay_proj.weight]
    theirs.in_proj_ba.weight.copy_(torch.stack(rates, dim=1).flatten(0, 1))
    theirs.conv1d.weight.copy_(torch.cat([ours.q_conv, ours.k_conv, ours.v_conv])[:, None])
    theirs.dt_bias.copy_(ours.decay_shift)
    theirs.A_log.copy_(ours.log_rate)
    theirs.norm.weight.copy_(ours.norm.normal_())
    theirs.out_proj.weight.copy_(ours.out_proj.weight)
    x = draw(0, 2, LENGTH, 16).float()
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)
