"""Regressions in context: the rows, the rules, the layouts, the curriculum."""

import hashlib

import numpy as np
import pytest
import torch

from attentions.base import Pattern
from tasks.diagnostics.regression.data import RegressionData
from tasks.diagnostics.regression.generate import Settings, generate
from tasks.diagnostics.regression.task import Curriculum, tokens
from tests.tasks.building import build_data, build_model, quiet_trainer


def test_points_are_of_their_function_exactly() -> None:
    """In numbers of which sums and products are exact, on any machine."""
    rows = generate(0, 20, Settings(30, 5, 2, num_pieces=3))
    for name in ("x", "weights"):
        assert (getattr(rows, name) * 1024 % 1 == 0).all()
    for row in range(20):
        for point in range(30):
            weights = rows.weights[row, rows.piece[row, point]].astype(float)
            expected = rows.x[row, point].astype(float) @ weights
            assert (rows.y[row, point] == expected.astype(np.float32)).all()
    assert set(rows.piece.flatten()) == {0, 1, 2}


def test_rows_have_the_law_of_the_paper_and_a_seed_of_their_own() -> None:
    rows = generate(0, 2000, Settings(11, 20))
    assert rows.x.mean() == pytest.approx(0, abs=0.01)  # 440,000 numbers
    assert rows.x.std() == pytest.approx(1, abs=0.01)
    assert np.square(rows.y).mean() == pytest.approx(20, rel=0.05)
    digest = hashlib.sha256(generate(1, 4, Settings(6, 3, 2, 2)).y.astype("<f4").tobytes())
    assert digest.hexdigest()[:16] == "f4e819e42629f9c1"


def test_pieces_of_time_are_equal_parts() -> None:
    rows = generate(0, 2, Settings(7, 2, num_pieces=3, pieces="time"))
    assert rows.piece[0].tolist() == [0, 0, 0, 1, 1, 2, 2]


def test_least_squares_is_exact_from_as_many_examples_as_dimensions() -> None:
    data = RegressionData(
        pattern="causal_self", num_points=9, dim=5, num_shown=8, stream=True,
        num_train=64, num_eval=1000, batch_size=64,
    )  # fmt: skip
    data.setup()
    scores = data.trivial_scores()
    for count in range(9):
        zero = scores["zero"][f"squared_error_{count}_examples"]
        assert zero == pytest.approx(1, abs=0.2)
        error = scores["least squares"][f"squared_error_{count}_examples"]
        if count < 5:  # what is missing of the space
            assert error == pytest.approx(1 - count / 5, abs=0.2)
        else:
            assert error < 1e-9
    assert scores["averaging"]["squared_error_0_examples"] == pytest.approx(
        scores["zero"]["squared_error_0_examples"]
    )


def test_only_a_fit_of_the_piece_is_exact_for_pieces() -> None:
    scores = build_data("test_time_regression/tiny", num_eval=100).trivial_scores()
    assert scores["least squares of the piece"]["squared_error"] < 0.02  # small pieces exist
    assert 0.1 < scores["3 nearest neighbours"]["squared_error"] < 0.5
    assert 0.5 < scores["least squares"]["squared_error"] < 1


@pytest.mark.parametrize("task", ["in_context_regression", "test_time_regression"])
@pytest.mark.parametrize("pattern", Pattern)
def test_no_answer_reaches_its_own_question(task: str, pattern: Pattern) -> None:
    """The gradient of a prediction by the y of its own point, and of later ones, is zero."""
    data = build_data(task + "/tiny", pattern, num_train=64, num_eval=4, batch_size=64)
    model = build_model(task + "/tiny", data, "softmax", pattern).eval()
    batch = data.test.every()
    y = batch.y.clone().requires_grad_()
    predicted = model.network(batch.x, y)
    first = 0 if data.num_shown is None else data.num_shown
    assert predicted.shape == batch.y[:, first:].shape
    for asked in (0, predicted.shape[1] - 1):
        (gradient,) = torch.autograd.grad(predicted[:, asked].sum(), y, retain_graph=True)
        assert (gradient[:, first + (asked if first == 0 else 0) :] == 0).all()
        assert asked == first == 0 or (gradient[:, : first or asked] != 0).any()


def test_a_stream_alternates_and_the_rest_is_padded_with_zeros() -> None:
    x, y = torch.arange(6.0).view(1, 2, 3), torch.tensor([[[7.0], [8.0]]])
    stream, context = tokens(x, y, None, is_cross=False)
    assert context is None
    assert stream.tolist() == [[[0, 1, 2], [7, 0, 0], [3, 4, 5], [8, 0, 0]]]
    asked, shown = tokens(x, y, 1, is_cross=True)
    assert shown is not None
    assert (asked.tolist(), shown.tolist()) == ([[[3, 4, 5, 0]]], [[[0, 1, 2, 7]]])


def test_a_curriculum_leaves_a_function_of_fewer_dimensions() -> None:
    sizes = Curriculum(start=5, step=1, interval=2000)
    assert [sizes.at(step, 20) for step in (0, 1999, 2000, 30_000, 99_999)] == [5, 5, 6, 20, 20]
    data = build_data("in_context_regression/tiny", num_train=64)
    start = {"start": 1, "step": 1, "interval": 10}
    model = build_model(
        "in_context_regression/tiny", data, "none", "causal_self", dims=start, points=start
    )
    batch = data.test.every()
    x, y = model._curriculum(batch)
    assert x.shape[1] == y.shape[1] == 1
    assert (x[..., 1] == 0).all()
    expected = batch.x[:, :1, 0] * batch.weights[:, 0, 0]
    torch.testing.assert_close(y[..., 0], expected, rtol=1e-4, atol=1e-4)


def test_training_rows_are_others_in_each_epoch_and_test_rows_the_same_for_each_seed() -> None:
    one, two = (build_data("in_context_regression/tiny", seed=seed) for seed in (0, 1))
    assert torch.equal(one.test.every().x, two.test.every().x)
    loader = one.train_dataloader()
    first = next(iter(loader)).x
    assert not torch.equal(first, next(iter(two.train_dataloader())).x)
    loader.sampler.set_epoch(1)
    assert not torch.equal(first, next(iter(loader)).x)


def test_the_error_counts_values_then_their_number_of_examples() -> None:
    data = build_data("in_context_regression/tiny", num_eval=10, eval_batch_size=4)
    model = build_model("in_context_regression/tiny", data, "none", "causal_self")
    for parameter in model.network.read_out.parameters():
        torch.nn.init.zeros_(parameter)
    tested = quiet_trainer().test(model, data, verbose=False)[0]
    zero = data.trivial_scores()["zero"]
    assert tested["squared_error"] == pytest.approx(zero["squared_error"])
    for row in model.measure():
        assert row["value"] == pytest.approx(zero[row["metric"]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_shown": 9}, "1 <= num_shown < num_points fails: 9, 9"),
        ({"num_pieces": 10}, "num_pieces <= num_points fails: 10 > 9"),
        ({"dim": 0}, "fails: 9, 0, 1, 1"),
        ({"pieces": "time", "stream": False}, "a stream of causal_self"),
        ({"source": "hub"}, "source must be 'generated', got 'hub'"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, object], message: str) -> None:
    given: dict[str, object] = {"pattern": "causal_self", "num_points": 9, "dim": 5}
    given |= {"num_shown": 8, "stream": True, "num_train": 64, "num_eval": 8, "batch_size": 8}
    with pytest.raises(ValueError, match=message):
        RegressionData(**(given | changes))  # type: ignore[arg-type]
