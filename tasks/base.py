"""What every task shares: slots for attentions, and the training module.

A backbone asks its slots for "an attention for this pattern" at each place and never names a
mechanism. The slots put the mechanism under test where its pattern is asked for, and softmax (or
what the backbone's paper has there) elsewhere.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, cast

import torch
import torch.distributed
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric

from attentions.base import Attention, Pattern, UnsupportedPattern
from attentions.registry import AttentionFactory
from attentions.softmax.softmax import SoftmaxAttention


class AttentionSlots:
    """The attentions of one backbone: the mechanism under test in its places, the rest elsewhere.

    Args:
        attention: The mechanism under test.
        pattern: The pattern under test, or "all" to replace every place.
    """

    def __init__(self, attention: AttentionFactory, pattern: Pattern | Literal["all"]) -> None:
        self.attention = attention
        self.pattern: Pattern | Literal["all"] = "all" if pattern == "all" else Pattern(pattern)
        self.under_test: list[Attention] = []

    def build(
        self,
        pattern: Pattern,
        *,
        embed_dim: int,
        num_heads: int,
        layer: int = 0,
        num_layers: int | None = None,
        dropout: float = 0.0,
        max_len: int | None = None,
        grid: tuple[int, int] | None = None,
        rest: AttentionFactory = SoftmaxAttention,
    ) -> Attention:
        """An attention for one place of the backbone.

        Args:
            pattern: What the place needs.
            embed_dim: Its width.
            num_heads: Its number of heads.
            layer: The depth of the place, for mechanisms that differ by layer.
            num_layers: How many such places there are, one after another.
            dropout: Its attention dropout.
            max_len: The greatest length of query or context there.
            grid: (height, width) of image inputs.
            rest: What the backbone's own paper has here, used when the place is not under test.
        """
        tested = self.pattern in ("all", pattern)
        factory = self.attention if tested else rest
        built = factory(
            embed_dim,
            num_heads,
            pattern,
            dropout=dropout,
            max_len=max_len,
            grid=grid,
            layer=layer,
            num_layers=num_layers,
        )
        if tested:
            self.under_test.append(built)
        return built

    def stack(self, pattern: Pattern, num_layers: int, **place: Any) -> Iterator[Attention]:
        """The attentions of places one after another, each made where it is asked for.

        Args:
            pattern: See `build`, as for all of `place`.
            num_layers: How many there are.
            **place: What they have in common.
        """
        for layer in range(num_layers):
            yield self.build(pattern, layer=layer, num_layers=num_layers, **place)


class _Window:
    """The batches of one optimizer update, each of whose tokens counts alike.

    The update's loss is the sum over its tokens, divided by their number, which is known at its end
    only. So a batch enters in proportion to the first one, which keeps gradients as large as those
    of means, and at the end the gradient is corrected. Over several ranks, whose gradients are
    averaged, both numbers are those of all ranks, which so correct their gradients alike.

    Args:
        device: Where the ranks exchange numbers.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.num_ranks = 1
        if torch.distributed.is_initialized():
            self.num_ranks = torch.distributed.get_world_size()
        self.first: Tensor | int = 0
        self.total: Tensor | int = 0

    def weight(self, count: Tensor | int) -> Tensor | float:
        """What to multiply the mean loss of the next batch, of `count` tokens, by."""
        if isinstance(count, Tensor):
            count = count.double()  # divided, integers would become float32
        if isinstance(self.total, int) and self.total == 0:
            self.first = self._over_ranks(count)
        self.total = self.total + count
        return self.num_ranks * count / self.first

    def correction(self) -> Tensor | float:
        """What to multiply the gradient of the sum of these losses by."""
        return self.first / self._over_ranks(self.total)

    def _over_ranks(self, count: Tensor | int) -> Tensor | int:
        if self.num_ranks == 1:
            return count
        total = torch.as_tensor(count, dtype=torch.float64, device=self.device).clone()
        torch.distributed.all_reduce(total)
        return total


STEPS = frozenset({"loss", "training_step", "validation_step", "test_step", "predict_step"})


def _without_stop_iteration(step: Callable[..., Any]) -> Callable[..., Any]:
    """A step whose StopIteration is an error; Lightning would take it for the end of the epoch."""

    @functools.wraps(step)
    def whole(*args: Any, **kwargs: Any) -> Any:
        try:
            return step(*args, **kwargs)
        except StopIteration as error:
            raise RuntimeError(f"{step.__qualname__} raised StopIteration") from error

    return whole


class Task(LightningModule):
    """A backbone with its loss and metrics.

    A subclass builds its backbone from `slots` in `__init__`, and writes `loss`, `validation_step`,
    `test_step` and `configure_optimizers`, which gives the optimizer `parameter_groups(lr)`. What
    it logs in validation and test under a name of `directions` becomes a measurement. What must be
    written token by token is scored in `predict_step`, in a pass of its own over the test rows:
    where that fails, the other scores are known already. Its scores are told in `measure`.

    Its metrics keep their sums in float64, whatever the precision of the weights.
    """

    patterns: ClassVar[frozenset[Pattern]] = frozenset()
    """The patterns of the places in its backbone."""
    directions: ClassVar[Mapping[str, Literal["lower", "higher"]]] = {}
    """Its metrics, and which way is better."""
    backbone: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in STEPS & vars(cls).keys():
            setattr(cls, name, _without_stop_iteration(vars(cls)[name]))

    def __init__(self, slots: AttentionSlots) -> None:
        super().__init__()
        self.check_pattern(slots.pattern)
        self.slots = slots
        self._window: _Window | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes the name of each hook that it calls, forty times a step; what a module
        # does to tell parameters from other attributes would be a tenth of a small step.
        if name == "_current_fx_name":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move and cast the module; sums go where it goes, but stay as exact as they are."""
        metrics = [(m, m.metric_state) for m in self.modules() if isinstance(m, Metric)]
        super()._apply(fn, recurse)
        for metric, state in metrics:
            for name, value in state.items():
                if isinstance(value, Tensor) and value.is_floating_point():
                    device = getattr(metric, name).device
                    setattr(metric, name, value.to(device, torch.float64))
                    metric._defaults[name] = cast(Tensor, metric._defaults[name]).double()
        return self

    def log(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        """See `LightningModule.log`, which averages a tensor in the tensor's precision.

        The mean is over all ranks, as that of a metric is.
        """
        if isinstance(value, Tensor):
            value, kwargs = value.double(), {"sync_dist": True, **kwargs}
        super().log(name, value, *args, **kwargs)

    def loss(self, batch: Any) -> tuple[Tensor, Tensor | int]:
        """The mean loss of a training batch, and of how many tokens or values it is the mean."""
        raise NotImplementedError

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss, with what the attentions add to it.

        Where an update takes several batches, each token or value of them counts alike, in the last
        and shorter update of an epoch too, as in fairseq; what the attentions add counts with the
        tokens of its batch.
        """
        mean, count = self.loss(batch)
        loss = mean + self.auxiliary_loss()
        trainer = self._trainer
        if trainer is None or trainer.accumulate_grad_batches * trainer.world_size == 1:
            return loss
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._window = _Window(self.device)
        assert self._window is not None
        return loss * self._window.weight(count)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Divide the gradient by what the whole update counts, before it is clipped."""
        trainer = self.trainer
        if self._window is None or trainer.accumulate_grad_batches * trainer.world_size == 1:
            return
        # Lightning has divided each loss by the number of batches of a whole update.
        factor = trainer.accumulate_grad_batches * self._window.correction()
        if isinstance(factor, float) and factor == 1.0:
            return
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(factor)

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """All parameters for an optimizer of the learning rate `lr`.

        What a mechanism names in `undecayed` is in groups after the first, without weight decay.
        """
        rates: dict[nn.Parameter, float] = {}
        for module in self.modules():
            for name, greatest in getattr(module, "undecayed", {}).items():
                part = getattr(module, name)
                owned = part.parameters() if isinstance(part, nn.Module) else [part]
                rates |= dict.fromkeys(owned, min(lr, greatest))
        groups: list[dict[str, Any]] = [
            {"params": [p for p in self.parameters() if p not in rates]}
        ]
        for rate in sorted(set(rates.values())):
            params = [p for p in rates if rates[p] == rate]
            groups.append({"params": params, "lr": rate, "weight_decay": 0.0})
        return groups

    def auxiliary_loss(self) -> Tensor | float:
        """What the attentions under test add to the loss of a training step, after their pass.

        The mean over the attentions that have such a loss, so that its weight does not depend on
        the depth of the backbone (as in MoH's code, the only mechanism with one so far).
        """
        given = [attention.auxiliary_loss for attention in self.slots.under_test]
        losses = [loss for loss in given if loss is not None]
        return sum(losses) / len(losses) if losses else 0.0

    @classmethod
    def check_pattern(cls, pattern: Pattern | Literal["all"]) -> None:
        """Raise UnsupportedPattern if the backbone has no place of this pattern."""
        if pattern != "all" and pattern not in cls.patterns:
            raise UnsupportedPattern(f"task {cls.__name__}", pattern, cls.patterns, "no such place")

    def measure(self) -> list[dict[str, Any]]:
        """Measurements beyond the logged metrics, taken after the test and `predict_step`.

        Each has the fields of `runners.records.Measurement`.
        """
        return []

    def write_samples(self, folder: Path) -> None:
        """Write files to look at or listen to, of the trained model on the first test rows.

        Called where a task has it, after `predict_step` and `measure`, in evaluation mode and
        without gradients. What it draws at random changes no later number.

        Args:
            folder: Exists, for this run alone.
        """
