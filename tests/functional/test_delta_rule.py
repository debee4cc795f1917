"""The delta rule in chunks against its recurrence, and where it is known what it must recall."""

import pytest
import torch
from torch import Tensor

from attentions.functional.delta_rule import delta_rule, delta_rule_state, delta_step


def draw(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def arguments(length: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q, k, v, beta; keys of norm 1, beta between 0 and 1."""
    q, k = draw(0, 2, 3, length, 4), torch.nn.functional.normalize(draw(1, 2, 3, length, 4), dim=-1)
    return q, k, draw(2, 2, 3, length, 5), draw(3, 2, 3, length).sigmoid()


def decays(kind: str, length: int) -> Tensor | None:
    """Log decays: none, weak ones, or some so strong that hardly anything is left."""
    if kind == "none":
        return None
    log_decay = -draw(4, 2, 3, length).square()
    return log_decay if kind == "weak" else torch.where(draw(5, 2, 3, length) > 1, -300, log_decay)


def recurrence(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The outputs and the last state, position by position, by what each key recalls."""
    state, outputs = torch.zeros(2, 3, 4, 5, dtype=torch.float64), []
    for t in range(k.shape[2]):
        if log_decay is not None:
            state = state * log_decay[:, :, t, None, None].exp()
        recalled = torch.einsum("bhf,bhfd->bhd", k[:, :, t], state)
        correction = beta[:, :, t, None] * (v[:, :, t] - recalled)
        state = state + torch.einsum("bhf,bhd->bhfd", k[:, :, t], correction)
        outputs.append(torch.einsum("bhf,bhfd->bhd", q[:, :, t], state))
    return torch.stack(outputs, dim=2), state


@pytest.mark.parametrize("length", [1, 63, 64, 65, 150])
@pytest.mark.parametrize("kind", ["none", "weak", "strong"])
def test_chunks_are_the_recurrence(length: int, kind: str) -> None:
    qkvb, log_decay = arguments(length), decays(kind, length)
    actual, expected = delta_rule(*qkvb, log_decay), recurrence(*qkvb, log_decay)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(delta_rule_state(*qkvb[1:], log_decay), expected[1])


@pytest.mark.parametrize("chunk_size", [1, 7, 200])
def test_the_chunk_size_does_not_matter(chunk_size: int) -> None:
    qkvb, log_decay = arguments(100), decays("weak", 100)
    expected = delta_rule(*qkvb, log_decay)
    torch.testing.assert_close(delta_rule(*qkvb, log_decay, chunk_size=chunk_size), expected)


@pytest.mark.parametrize("kind", ["none", "weak"])
def test_a_step_goes_on_where_chunks_ended(kind: str) -> None:
    (_, k, v, beta), log_decay = arguments(71), decays(kind, 71)
    parts = [k, v, beta] if log_decay is None else [k, v, beta, log_decay]
    before = delta_rule_state(*(x[:, :, :70] for x in parts))
    after = delta_step(before, *(x[:, :, 70:] for x in parts))
    torch.testing.assert_close(after, delta_rule_state(*parts))


def test_orthonormal_keys_recall_what_was_written_last() -> None:
    keys = torch.linalg.qr(draw(0, 1, 1, 80, 80)).Q
    first, second = draw(1, 1, 1, 80, 5), draw(2, 1, 1, 80, 5)
    k, v = torch.cat([keys, keys], dim=2), torch.cat([first, second], dim=2)
    state = delta_rule_state(k, v, torch.ones(1, 1, 160, dtype=torch.float64))
    torch.testing.assert_close(keys @ state, second)


def test_orthogonal_keys_make_it_linear_attention() -> None:
    k = torch.linalg.qr(draw(0, 2, 3, 80, 80)).Q
    q, v, beta = draw(1, 2, 3, 80, 80), draw(2, 2, 3, 80, 5), draw(3, 2, 3, 80).sigmoid()
    out, _ = delta_rule(q, k, v, beta)
    torch.testing.assert_close(out, (q @ k.mT).tril() @ (beta[..., None] * v))


def test_one_key_again_and_again_is_stable_in_float32() -> None:
    # The inverse of the triangle of ones is small, but its powers are of the order of 1e18.
    k = torch.nn.functional.normalize(draw(0, 1, 1, 1, 4), dim=-1).expand(-1, -1, 500, -1)
    v, beta = draw(1, 1, 1, 500, 5), torch.ones(1, 1, 500, dtype=torch.float64)
    out, _ = delta_rule(*(x.float() for x in (k, k, v, beta)))
    torch.testing.assert_close(out.double(), v, rtol=1e-5, atol=1e-5)


def test_a_decay_to_nothing_does_not_blur_the_others_in_float32() -> None:
    q, k, v, beta = arguments(64)
    log_decay = torch.full((2, 3, 64), -0.01, dtype=torch.float64)
    log_decay[:, :, 3] = -1e6
    expected, _ = recurrence(q, k, v, beta, log_decay)
    actual, _ = delta_rule(q.float(), k.float(), v.float(), beta.float(), log_decay.float())
    torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-4)
