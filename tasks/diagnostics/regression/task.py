"""In-context and test-time regression: fit a function to the examples of a row, and apply it.

Sources and departures: see `generate`. `Regressor` is the GPT-2 of Garg et al. (12 layers of 256;
small 6 of 128, tiny 3 of 64), with their curriculum. `Estimator` is one attention between linear
maps, for what an attention alone can fit; that it is trained, by which each mechanism finds the
scale of its keys, is ours.
In: x (B, K, d), y (B, K, m). Out: y of the points asked. Scores: squared error over d, so that the
answer 0 has 1; in a stream also by the number of examples.
"""

from collections.abc import Iterable
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn

from attentions.base import Pattern
from tasks.backbones.positions import Positions
from tasks.backbones.recall import Block
from tasks.base import AttentionSlots, Task
from tasks.diagnostics.regression.data import Batch
from tasks.metrics.mean import Mean


class Curriculum(NamedTuple):
    """One size that grows during training: from `start`, by `step` every `interval` steps."""

    start: int
    step: int
    interval: int

    def at(self, step: int, end: int) -> int:
        """The size at a training step, at most `end`."""
        return min(end, self.start + step // self.interval * self.step)


class Regressor(nn.Module):
    """GPT-2 between linear maps, without embedding tables.

    In a stream x and y are tokens of their own, y padded with zeros; else a token holds x and y, or
    x and zeros where y is asked for.

    Args:
        slots: Give the attention, of the pattern under test.
        dim: d.
        num_outputs: m, at most d.
        num_points: The greatest K.
        num_shown: Examples; None for a stream. See `data`.
        embed_dim: E.
        num_layers: Of attention and MLP each.
        num_heads: Of each attention.
    """

    def __init__(
        self,
        slots: AttentionSlots,
        *,
        dim: int,
        num_outputs: int,
        num_points: int,
        num_shown: int | None,
        embed_dim: int,
        num_layers: int,
        num_heads: int,
    ) -> None:
        super().__init__()
        if num_outputs > dim:
            raise ValueError(f"regression: num_outputs <= dim fails: {num_outputs} > {dim}")
        self.num_shown = num_shown
        pattern = Pattern(slots.pattern)
        length = 2 * num_points if num_shown is None else num_points
        self.read_in = nn.Linear(dim if num_shown is None else dim + num_outputs, embed_dim)
        # Points that are all shown at once have no order.
        kind = "learned" if num_shown is None else "none"
        self.positions = Positions(kind, length, embed_dim, init_std=0.02)
        self.blocks = nn.ModuleList(
            Block(
                slots.build(
                    pattern,
                    embed_dim=embed_dim,
                    num_heads=num_heads,
                    layer=layer,
                    num_layers=num_layers,
                    max_len=length,
                ),
                embed_dim,
                "layer",
                "gelu",
            )
            for layer in range(num_layers)
        )
        self.is_cross = pattern.is_cross
        self.norm = nn.LayerNorm(embed_dim)
        self.read_out = nn.Linear(embed_dim, num_outputs)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The y of the points asked, from x (B, K, d) and y (B, K, m): all, or those not shown."""
        stream, context = tokens(x, y, self.num_shown, self.is_cross)
        stream = self.positions(self.read_in(stream))
        context = None if context is None else self.read_in(context)
        for block in self.blocks:
            stream = block(stream, context)
        return answers(self.read_out(self.norm(stream)), x.shape[1], self.num_shown)


class Estimator(nn.Module):
    """One attention between linear maps, and nothing else. See `Regressor`."""

    def __init__(
        self,
        slots: AttentionSlots,
        *,
        dim: int,
        num_outputs: int,
        num_points: int,
        num_shown: int | None,
        embed_dim: int,
        num_heads: int,
    ) -> None:
        super().__init__()
        self.num_shown = num_shown
        pattern = Pattern(slots.pattern)
        self.is_cross = pattern.is_cross
        self.read_in = nn.Linear(dim + num_outputs, embed_dim)
        self.attention = slots.build(
            pattern,
            embed_dim=embed_dim,
            num_heads=num_heads,
            num_layers=1,
            max_len=2 * num_points if num_shown is None else num_points,
        )
        self.read_out = nn.Linear(embed_dim, num_outputs)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """See `Regressor`; in a stream too, the token of an example holds both x and y."""
        stream, context = tokens(x, y, self.num_shown, self.is_cross, joint=True)
        given = [stream] if context is None else [stream, context]
        mixed = self.attention(*map(self.read_in, given))
        return answers(self.read_out(mixed), x.shape[1], self.num_shown)


def tokens(
    x: Tensor, y: Tensor, num_shown: int | None, is_cross: bool, *, joint: bool = False
) -> tuple[Tensor, Tensor | None]:
    """The vectors of the stream that is answered in, and of its context in the cross patterns.

    Args:
        x: (B, K, d).
        y: (B, K, m).
        num_shown: See `data`.
        is_cross: Whether there is a context.
        joint: Whether in a stream an example is one token of x and y, d + m wide, which follows its
            question; else its y alone follows it, padded to d.
    """
    batch, points, dim = x.shape
    if num_shown is None:
        asked, shown = x, torch.cat([y, y.new_zeros(batch, points, dim - y.shape[2])], dim=2)
        if joint:
            asked, shown = torch.cat([x, torch.zeros_like(y)], dim=2), torch.cat([x, y], dim=2)
        return torch.stack([asked, shown], dim=2).flatten(1, 2), None
    shown = torch.cat([x, y], dim=2)[:, :num_shown]
    asked = torch.cat([x, torch.zeros_like(y)], dim=2)[:, num_shown:]
    return (asked, shown) if is_cross else (torch.cat([shown, asked], dim=1), None)


def answers(stream: Tensor, num_points: int, num_shown: int | None) -> Tensor:
    """What stands where the questions are."""
    return stream[:, ::2] if num_shown is None else stream[:, num_shown - num_points :]


class Regression(Task):
    """Mean squared error at the points asked.

    Args:
        slots: Give the attention.
        lr: Of Adam, constant, as the original's.
        dims: The curriculum of the dimensions in use; None for all from the start.
        points: That of the points, in a stream.
        **sizes: Of the network.
    """

    patterns = frozenset(Pattern)
    directions: ClassVar = {"squared_error": "lower"}
    backbone = "GPT-2"
    network_of: ClassVar[Any] = Regressor

    def __init__(
        self,
        slots: AttentionSlots,
        *,
        lr: float,
        dims: dict[str, int] | None = None,
        points: dict[str, int] | None = None,
        **sizes: Any,
    ) -> None:
        super().__init__(slots)
        self.network = self.network_of(slots, **sizes)
        self.lr, self.dim, self.num_shown = lr, sizes["dim"], sizes["num_shown"]
        self.dims = None if dims is None else Curriculum(**dims)
        self.points = None if points is None else Curriculum(**points)
        if self.num_shown is not None:
            self.points = None  # the last are asked
        self.error = Mean()
        in_stream = sizes["num_points"] if self.num_shown is None else 0
        self.by_count = nn.ModuleList(Mean() for _ in range(in_stream))

    def loss(self, batch: Batch) -> tuple[Tensor, int]:
        """Over the points asked, in the dimensions in use."""
        x, y = self._curriculum(batch)
        asked = y if self.num_shown is None else y[:, self.num_shown :]
        error = self.network(x, y).float() - asked
        return error.square().mean(), error.numel()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count the errors."""
        self._count(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """The same, and apart for each number of examples."""
        error = self._count(batch)
        for count, metric in enumerate(cast(Iterable[Mean], self.by_count)):
            metric.update(error[:, count].sum(), error[:, count].numel())

    def measure(self) -> list[dict[str, Any]]:
        """The test error after each number of examples."""
        return [
            {
                "metric": f"squared_error_{count}_examples",
                "value": float(metric.compute()),
                "direction": "lower",
                "split": "test",
                "seq_len": 2 * count + 1,  # the examples, and the point that is asked
            }
            for count, metric in enumerate(cast(Iterable[Mean], self.by_count))
        ]

    def on_test_epoch_start(self) -> None:
        """Forget an earlier test."""
        for metric in cast(Iterable[Mean], self.by_count):
            metric.reset()

    def configure_optimizers(self) -> Any:
        """Adam, at a constant rate."""
        optimizer = torch.optim.Adam(self.parameter_groups(self.lr), lr=self.lr, fused=True)
        constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
        return [optimizer], [constant]

    def _curriculum(self, batch: Batch) -> tuple[Tensor, Tensor]:
        x, y, step = batch.x, batch.y, self.global_step
        if self.dims is not None:
            kept = self.dims.at(step, self.dim)
            rest = torch.einsum("bkd,bkdm->bkm", x[..., kept:], self._weights(batch)[:, :, kept:])
            y = y - rest
            x = torch.cat([x[..., :kept], torch.zeros_like(x[..., kept:])], dim=2)
        if self.points is not None:
            kept = self.points.at(step, x.shape[1])
            x, y = x[:, :kept], y[:, :kept]
        return x, y

    def _weights(self, batch: Batch) -> Tensor:
        """Those of each point, (B, K, d, m)."""
        rows = torch.arange(len(batch.x), device=batch.x.device)[:, None]
        return batch.weights[rows, batch.piece]

    def _count(self, batch: Batch) -> Tensor:
        """Count a batch; the normalised error (B, Q, m)."""
        asked = batch.y if self.num_shown is None else batch.y[:, self.num_shown :]
        error = self.network(batch.x, batch.y).double() - asked.double()
        error = error.square() / self.dim
        self.error.update(error.sum(), error.numel())
        self.log("squared_error", self.error, on_step=False, on_epoch=True)
        return error


class TestTimeRegression(Regression):
    """The same by one attention alone."""

    __test__ = False  # no test of pytest's
    backbone = "attention"
    network_of = Estimator
