"""The Informer: its parts against their definitions, its places and their lengths."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from attentions import registry
from attentions.base import Attention, Pattern
from attentions.softmax.softmax import SoftmaxAttention
from attentions.sparse.probsparse import ProbSparseAttention
from tasks.backbones.informer import DataEmbedding, Informer, MaskedProbSparse, sinusoids
from tasks.base import AttentionSlots

SIZES: dict[str, Any] = {
    "channels": 3,
    "num_time_features": 4,
    "input_len": 21,
    "label_len": 6,
    "horizon": 9,
    "embed_dim": 16,
    "num_heads": 2,
    "ffn_dim": 24,
    "num_encoder_layers": 3,
    "num_decoder_layers": 2,
    "dropout": 0.0,
}


def build(pattern: Pattern | str, **changes: Any) -> tuple[Informer, AttentionSlots]:
    slots = AttentionSlots(registry.factory(registry.load("softmax")), Pattern(pattern))
    return Informer(slots, **{**SIZES, **changes}).double().eval(), slots


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize(("pattern", "places"), [("noncausal_self", 3), ("noncausal_cross", 2)])
def test_what_is_not_under_test_is_as_in_the_paper(pattern: str, places: int) -> None:
    model, slots = build(pattern)
    assert len(slots.under_test) == places
    tested = type(slots.under_test[0])
    encoder = [m for m in model.encoder.modules() if isinstance(m, Attention)]
    decoder = [m for m in model.decoder.modules() if isinstance(m, Attention)]
    assert tested is SoftmaxAttention
    rest = ProbSparseAttention if pattern == "noncausal_cross" else SoftmaxAttention
    assert {type(m) for m in encoder} == {rest}
    assert {type(m) for m in decoder} == {SoftmaxAttention}
    assert [m.max_len for m in encoder] == [21, 11, 6]
    assert [m.max_len for m in decoder] == [15, 15]


def test_the_encoder_halves_its_sequence_between_its_layers() -> None:
    model, slots = build("noncausal_self")
    seen: list[int] = []
    for attention in slots.under_test:
        attention.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    assert model(draw(2, 21, 3), draw(2, 30, 4)).shape == (2, 9, 3)
    assert seen == [21, 11, 6]


def test_the_last_decoder_layer_leaves_out_only_what_is_not_read() -> None:
    model, _ = build("noncausal_cross")
    past, times = draw(2, 21, 3), draw(2, 30, 4)
    context = model.encoder(model.embed_past(past, times[:, :21]))
    start = torch.cat([past[:, 15:], torch.zeros(2, 9, 3)], dim=1)
    x = model.embed_future(start, times[:, 15:])
    for layer in model.decoder:
        x = layer(x, context, unread=0)
    assert_close(model(past, times), model.projection(model.norm(x))[:, 6:])


def test_samples_of_a_batch_do_not_meet() -> None:
    model, _ = build("noncausal_cross")
    past, times = draw(3, 21, 3), draw(3, 30, 4)
    together = model(past, times)
    for row in range(3):
        assert_close(together[row], model(past[row, None], times[row, None])[0])


def test_every_forecast_depends_on_the_past_its_dates_and_the_label() -> None:
    model, _ = build("noncausal_cross", label_len=0)
    past, times = draw(1, 21, 3), draw(1, 30, 4)
    output = model(past, times)
    for row in (0, 10, 20):
        other = past.clone()
        other[:, row] += 1
        assert (model(other, times) != output).any(dim=-1).all(), f"past row {row}"
    later = times.clone()
    later[:, 29] += 1
    assert (model(past, later)[:, 29 - 21] != output[:, 29 - 21]).any()
    assert not torch.equal(build("noncausal_cross")[0](past, times), output)


def test_the_embedding_is_a_circular_convolution_with_position_and_time() -> None:
    embed = DataEmbedding(2, 3, 8, max_len=5, dropout=0.0).double()
    values, times = draw(1, 5, 2), draw(1, 5, 3)
    output = embed(values, times)
    weight, bias = embed.value.state_dict().values()
    for row in range(5):
        around = torch.stack([values[0, (row + shift) % 5] for shift in (-1, 0, 1)], dim=-1)
        convolved = (weight * around).sum(dim=(1, 2)) + bias
        timed = embed.time.weight @ times[0, row] + embed.time.bias
        assert_close(output[0, row], convolved + timed + embed.position[row])


def test_positions_are_sines_and_cosines() -> None:
    positions = sinusoids(7, 6)
    for t in range(7):
        for i in range(3):
            angle = t / 10_000 ** (2 * i / 6)
            assert positions[t, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert positions[t, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)


@pytest.mark.parametrize("length", [4, 40])  # all queries active; 20 of 40
def test_the_decoder_self_attention_is_that_of_the_reference_code(length: int) -> None:
    attention = MaskedProbSparse(8, num_heads=2, seed=0).double()
    x = draw(2, length, 8)
    num_active = min(length, 5 * math.ceil(math.log(length)))
    expected = torch.zeros_like(x)
    for b in range(2):
        heads = []
        for h in range(2):
            q, k, v = (
                (x[b] @ attention.qkv_proj.weight.T + attention.qkv_proj.bias)[:, at : at + 4]
                for at in (4 * h, 8 + 4 * h, 16 + 4 * h)
            )
            sampled = [int(d) % length for d in attention.draws[:num_active]]
            scores = q @ k[sampled].T
            measure = scores.max(dim=1).values - scores.sum(dim=1) / length
            best = measure.argsort(descending=True)[:num_active].tolist()
            rows = []
            for i in range(length):
                weights = (k[: i + 1] @ q[i] / 2).softmax(dim=0)
                rows.append(weights @ v[: i + 1] if i in best else v[: i + 1].sum(dim=0))
            heads.append(torch.stack(rows))
        # All positions of the first head, then all of the second, cut into rows of the width.
        mixed = torch.stack(heads).flatten().view(length, 8)
        expected[b] = mixed @ attention.out_proj.weight.T + attention.out_proj.bias
    assert_close(attention(x), expected)


def test_every_parameter_learns() -> None:
    model, _ = build("noncausal_self")
    (model(draw(4, 21, 3), draw(4, 30, 4)) * draw(4, 9, 3)).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if not name.endswith("k_proj.bias"):  # softmax does not see a shift of all keys
            assert parameter.grad.abs().max() > 0, name
