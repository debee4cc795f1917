"""`attnbench speed`: time, peak memory and FLOPs of one mechanism in one pattern, over lengths.

Each pass at each length is measured in turns with the baseline, in one process. What takes too much
memory or time leaves rows without a value, and ends its pass for that mechanism.
"""

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from attentions.base import Attention, Pattern
from attentions.registry import AttentionFactory, factory, load
from runners import devices
from runners.measure import (
    Call,
    costs,
    count_flops,
    is_out_of_memory,
    peak_memory,
    ratio_in_turns,
    spread,
    time_in_turns,
    weight_bytes,
)
from runners.mistakes import unknown
from runners.passes import (
    CAUSAL_PASSES,
    PASSES,
    Decoding,
    backends,
    forward,
    forward_backward,
    in_torch_form,
    prefill,
)
from runners.run import Run, TimeLimit
from runners.state_size import UNKNOWN, state_elements

MIB = 2**20
DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
Values = dict[str, tuple[float | None, str]]
"""(value, unit) by metric; a value that could not be had is None."""
SIMPLE = {"forward": forward, "forward_backward": forward_backward, "prefill": prefill}


def measure(run: Run) -> None:
    """Measure every pass at every length, the shortest length first."""
    config = run.config
    bench = Bench(run)
    run.labels |= {
        "device": bench.device.type,
        "dtype": config.dtype,
        "num_threads": torch.get_num_threads(),
    }
    cells = [(seq_len, name) for seq_len in sorted(set(config.seq_lens)) for name in bench.passes]
    for done, (now, _) in enumerate(cells):
        try:
            bench.measure(*cells[done])
        except TimeLimit as reason:
            for seq_len, name in cells[done:]:
                bench.add_missing(seq_len, name, f"timeout at {now}: {reason}")
            raise


@dataclass
class Cell:
    """What one pass at one length of one mechanism gave.

    Attributes:
        call: What is to be timed, if anything.
        values: What is known.
        reason: Why a value is None, but for what has a comment of its own.
        comments: What a value must be read with, by metric.
        times_ms: The calls that were timed, in order.
    """

    call: Call | None
    values: Values
    reason: str = ""
    comments: dict[str, str] = field(default_factory=dict)
    times_ms: list[float] = field(default_factory=list)


class Bench:
    """The mechanism under test beside the baseline, and what was given up on the way.

    Raises:
        ValueError: If a setting is wrong.
        Unavailable: If the machine lacks the device.
    """

    def __init__(self, run: Run) -> None:
        config = run.config
        self.run = run
        self.config = config
        self.pattern = Pattern(config.pattern)
        self.passes = _passes(config, self.pattern)
        self.device = devices.find(config.device)
        self.dtype = DTYPES[_one_of("dtype", config.dtype, DTYPES)]
        # Rows without a name are the run's own mechanism's.
        self.factories: dict[str | None, AttentionFactory] = {
            None: factory(config.attention),
            config.baseline: factory(load(config.baseline)),
        }
        self.given_up: dict[tuple[str | None, str], str] = {}

    def measure(self, seq_len: int, name: str) -> None:
        """Measure one pass at one length, of both mechanisms, and add the rows."""
        cells = {who: self.cost(who, seq_len, name) for who in self.factories}
        self._time(cells, seq_len, name)
        self._add(cells, seq_len, name)

    def add_missing(self, seq_len: int, name: str, reason: str) -> None:
        """Add the rows of a pass that was not measured."""
        self._add({who: _empty(name, reason) for who in self.factories}, seq_len, name)

    def cost(self, who: str | None, seq_len: int, name: str) -> Cell:
        """Everything but the time; the run that this takes warms up for the time."""
        if (who, name) in self.given_up:
            return _empty(name, self.given_up[who, name])
        try:
            module, call, values = self._call(who, seq_len, name)
            if self.device.type == "cuda":  # cuBLAS takes its workspace at its first use
                call.prepare()
                call.run()
            if others := backends(module):
                flops, comment = _flops_in_torch_form(call, module, others)
            start = time.perf_counter()
            if others:
                peak_bytes = peak_memory(call, self.device)
            else:
                peak_bytes, flops, comment = self._costs(call)
            call_s = time.perf_counter() - start
        except (RuntimeError, MemoryError) as error:
            return _empty(name, self._give_up(who, seq_len, name, error))
        values |= {f"{name}_memory": (peak_bytes / MIB, "MiB"), f"{name}_flops": (flops, "FLOP")}
        comments = {f"{name}_flops": comment} if comment else {}
        if None in values.get("state_elements", ()):
            comments["state_elements"] = UNKNOWN
        if call_s <= self.config.max_call_s:
            return Cell(call, values, comments=comments)
        limit = f"more than max_call_s = {self.config.max_call_s:g}"
        reason = f"timeout at {seq_len}: one call took {call_s:.3g} s, {limit}"
        self.given_up[who, name] = reason
        return Cell(None, {f"{name}_time": (None, "ms")} | values, reason, comments)

    def _costs(self, call: Call) -> tuple[int, int | None, str]:
        """The peak memory, the FLOPs, and why there are none where they cannot be counted."""
        try:
            return *costs(call, self.device), ""
        except TypeError as error:
            # What torch raises for an operator of higher order under a counter. Its compiler then
            # remembers the call as one that it cannot compile.
            torch._dynamo.reset()
            # Raises again if it was not the counter's fault.
            return peak_memory(call, self.device), None, f"not counted: {error}"

    def _call(self, who: str | None, seq_len: int, name: str) -> tuple[Attention, Call, Values]:
        """The module, the call to measure, and the sizes known without a measurement."""
        config = self.config
        query_len = seq_len
        if self.pattern.is_cross:
            query_len = max(1, round(config.query_ratio * seq_len))
        beyond = Decoding.num_steps(query_len) if name == "decode" else 0
        torch.manual_seed(config.seed)
        module = self.factories[who](
            config.embed_dim,
            config.num_heads,
            self.pattern,
            max_len=max(query_len + beyond, seq_len),
        ).to(self.device, self.dtype)
        torch.manual_seed(config.seed)  # both mechanisms see the same inputs
        inputs = [
            torch.randn(config.batch_size, length, config.embed_dim).to(self.device, self.dtype)
            for length in ([query_len, seq_len] if self.pattern.is_cross else [query_len])
        ]
        if name == "decode":
            decoding = Decoding(module, *inputs)
            size = state_elements([module], query_len, seq_len)
            known = {
                "state_size": (decoding.state_bytes, "B"),
                "state_elements": (size, "elements"),
            }
            return module, decoding.call(), known
        weights: Values = {"weights_memory": (weight_bytes(module) / MIB, "MiB")}
        known = weights if name == self.passes[0] else {}
        return module, SIMPLE[name](module, *inputs), known

    def _time(self, cells: Mapping[str | None, Cell], seq_len: int, name: str) -> None:
        timed = {who: (cell, cell.call) for who, cell in cells.items() if cell.call is not None}
        if not timed:
            return
        calls = [call for _, call in timed.values()]
        try:
            samples = time_in_turns(calls, min_run_time_s=self.config.min_run_time_s)
        except (RuntimeError, MemoryError) as error:
            for who, (cell, _) in timed.items():
                cell.reason = self._give_up(who, seq_len, name, error)
                cell.values[f"{name}_time"] = (None, "ms")
            return
        for (cell, _), times_ms in zip(timed.values(), samples, strict=True):
            cell.times_ms = times_ms
            q1, median, q3 = np.quantile(times_ms, [0.25, 0.5, 0.75])
            cell.values[f"{name}_time"] = (float(median), "ms")
            cell.values[f"{name}_time_iqr"] = (float(q3 - q1), "ms")
            cell.values[f"{name}_time_calls"] = (len(times_ms), "")

    def _add(self, cells: Mapping[str | None, Cell], seq_len: int, name: str) -> None:
        for who, cell in cells.items():
            for metric, (value, unit) in cell.values.items():
                self.run.add(
                    metric,
                    value,
                    unit=unit,
                    direction="lower" if unit else "",
                    seq_len=seq_len,
                    attention=who,
                    comment=cell.comments.get(metric, cell.reason if value is None else ""),
                    samples=spread(cell.times_ms) if metric == f"{name}_time" else (),
                )
        own, baseline = (cell.times_ms for cell in cells.values())
        if own and baseline:
            ratio = ratio_in_turns(own, baseline)
            comment = f"to {self.config.baseline}, measured in turns"
        else:
            ratio, reasons = None, [f"{who or 'own'}: {c.reason}" for who, c in cells.items()]
            comment = "; ".join(reason for reason in reasons if not reason.endswith(": "))
        self.run.add(
            f"{name}_time_ratio",
            ratio,
            unit="ratio",
            direction="lower",
            seq_len=seq_len,
            comment=comment,
        )

    def _give_up(self, who: str | None, seq_len: int, name: str, error: BaseException) -> str:
        """Why greater lengths are left out; an error of any other kind is raised again."""
        if is_out_of_memory(error):
            reason = f"oom at {seq_len}"
        elif isinstance(error, NotImplementedError) and name in CAUSAL_PASSES:
            reason = str(error)  # a mechanism need not have a decoding step
        else:
            raise error
        self.given_up[who, name] = reason
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return reason


def _flops_in_torch_form(
    call: Call, module: Attention, others: list[str]
) -> tuple[int | None, str]:
    """The FLOPs of the same mechanism on torch's kernels, and what is to be said of them.

    The counter sees nothing of a Triton kernel, and fails on a compiled one.
    """
    told = f"backend {' and '.join(others)}"
    try:
        with in_torch_form(module):
            return count_flops(call), f"counted in the form of backend torch, not of {told}"
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None, f"oom in the form of backend torch, in which those of {told} are counted"


def _empty(name: str, reason: str) -> Cell:
    units = {"time": "ms", "memory": "MiB", "flops": "FLOP"}
    return Cell(None, {f"{name}_{metric}": (None, unit) for metric, unit in units.items()}, reason)


def _passes(config: DictConfig, pattern: Pattern) -> list[str]:
    """Those asked for that the pattern has, in the order of `PASSES`."""
    asked = {_one_of("pass", name, PASSES) for name in config.passes}
    passes = [name for name in PASSES if name in asked]
    if not pattern.is_causal:
        passes = [name for name in passes if name not in CAUSAL_PASSES]
    if not passes:
        raise ValueError(
            f"passes {list(config.passes)} give nothing to measure in {pattern}; "
            f"{' and '.join(CAUSAL_PASSES)} need a causal pattern"
        )
    return passes


def _one_of(what: str, name: Any, known: Collection[str]) -> str:
    if name in known:
        return name
    raise ValueError(unknown(what, str(name), list(known)))
