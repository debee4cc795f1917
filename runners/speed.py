"""`attnbench speed`: time, peak memory and FLOPs of one mechanism in one pattern, over lengths.

Each pass at each length is measured in turns with the baseline, in one process. What takes too much
memory or time leaves rows without a value, and ends its pass for that mechanism.
"""

import difflib
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from attentions.base import Pattern, Unavailable
from attentions.registry import AttentionFactory, factory, load
from runners.measure import Call, costs, is_out_of_memory, time_in_turns, weight_bytes
from runners.passes import CAUSAL_PASSES, PASSES, Decoding, forward, forward_backward, prefill
from runners.run import Run, TimeLimit

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
        reason: Why a value is None.
    """

    call: Call | None
    values: Values
    reason: str = ""


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
        self.device = _device(config.device)
        self.dtype = DTYPES[_one_of("dtype", config.dtype, DTYPES)]
        # Rows without a name are the run's own mechanism's.
        self.factories: dict[str | None, AttentionFactory] = {
            None: factory(config.attention),
            config.baseline: factory(load(config.baseline)),
        }
        self.given_up: dict[tuple[str | None, str], str] = {}

    def measure(self, seq_len: int, name: str) -> None:
        """Measure one pass at one length, of both mechanisms, and add the rows."""
        cells = {who: self._costs(who, seq_len, name) for who in self.factories}
        self._time(cells, seq_len, name)
        self._add(cells, seq_len, name)

    def add_missing(self, seq_len: int, name: str, reason: str) -> None:
        """Add the rows of a pass that was not measured."""
        self._add({who: _empty(name, reason) for who in self.factories}, seq_len, name)

    def _costs(self, who: str | None, seq_len: int, name: str) -> Cell:
        """Everything but the time; the run that this takes warms up for the time."""
        if (who, name) in self.given_up:
            return _empty(name, self.given_up[who, name])
        try:
            call, values = self._call(who, seq_len, name)
            if self.device.type == "cuda":  # cuBLAS takes its workspace at its first use
                call.prepare()
                call.run()
            start = time.perf_counter()
            peak_bytes, flops = costs(call, self.device)
            call_s = time.perf_counter() - start
        except (RuntimeError, MemoryError) as error:
            return _empty(name, self._give_up(who, seq_len, name, error))
        values |= {f"{name}_memory": (peak_bytes / MIB, "MiB"), f"{name}_flops": (flops, "FLOP")}
        if call_s <= self.config.max_call_s:
            return Cell(call, values)
        limit = f"more than max_call_s = {self.config.max_call_s:g}"
        reason = f"timeout at {seq_len}: one call took {call_s:.3g} s, {limit}"
        self.given_up[who, name] = reason
        return Cell(None, {f"{name}_time": (None, "ms")} | values, reason)

    def _call(self, who: str | None, seq_len: int, name: str) -> tuple[Call, Values]:
        """The call to measure, and the sizes that are known without a measurement."""
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
            return decoding.call(), {"state_size": (decoding.state_bytes, "B")}
        weights: Values = {"weights_memory": (weight_bytes(module) / MIB, "MiB")}
        return SIMPLE[name](module, *inputs), weights if name == self.passes[0] else {}

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
                    comment=cell.reason if value is None else "",
                )
        (own, _), (baseline, _) = (cell.values[f"{name}_time"] for cell in cells.values())
        if own is None or baseline is None:
            ratio, reasons = None, [f"{who or 'own'}: {c.reason}" for who, c in cells.items()]
            comment = "; ".join(reason for reason in reasons if not reason.endswith(": "))
        else:
            ratio, comment = own / baseline, f"to {self.config.baseline}, measured in turns"
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


def _device(name: str) -> torch.device:
    known = _one_of("device", name, ("auto", "cpu", "cuda"))
    if known == "auto":
        known = "cuda" if torch.cuda.is_available() else "cpu"
    if known == "cuda" and not torch.cuda.is_available():
        raise Unavailable("device cuda: torch sees no CUDA device on this machine")
    return torch.device(known)


def _one_of(what: str, name: Any, known: Collection[str]) -> str:
    if name in known:
        return name
    near = difflib.get_close_matches(str(name), list(known), n=1)
    hint = f", did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"unknown {what} {str(name)!r}{hint} (known: {', '.join(known)})")
