"""Time, peak memory and FLOPs of one callable, on the CPU or on CUDA.

What is measured is a `Call`: its inputs are made beforehand, so that nothing else is counted.
"""

import gc
import os
import timeit
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import log2, prod
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.autograd.profiler import profile
from torch.utils.benchmark import timer
from torch.utils.flop_counter import FlopCounterMode

aten = torch.ops.aten
MAX_SAMPLES = 100
"""Of the calls behind a time, how many a record keeps."""


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Call:
    """Something to measure.

    Attributes:
        run: Is measured. What it returns lives on until its memory is known.
        prepare: Is called before every `run` and not measured: clears gradients, rewinds a state.
        held_bytes: What `run` carries from call to call and has to hold, a decoding state: it
            counts as memory of the call, though it lived before.
    """

    run: Callable[[], object]
    prepare: Callable[[], object] = _nothing
    held_bytes: int = 0


def time_in_turns(
    calls: Sequence[Call], *, min_run_time_s: float = 1.0, min_calls: int = 5
) -> list[list[float]]:
    """Time the calls in turns, A B A B ..., so that a machine that slows down slows all of them.

    Every sample is one run, from a device at rest to a device at rest. Warming up is the caller's:
    the first run of a callable must not be one of these.

    Args:
        calls: What to time; each gets equally many samples.
        min_run_time_s: Goes on at least until the samples of all calls add up to this.
        min_calls: Goes on at least until each call has this many samples.

    Returns:
        The samples of each call in ms, to the nanosecond, in order: those of one place in the
        lists are of one turn.
    """
    # The clock of torch.utils.benchmark, which waits for the device. Its Timer is of no use here:
    # it takes no callables, and runs each statement twice before every single-call block.
    timers = [timeit.Timer(call.run, call.prepare, timer=timer) for call in calls]
    samples: list[list[float]] = [[] for _ in calls]
    total_s, num_turns = 0.0, 0
    while total_s < min_run_time_s or num_turns < min_calls:
        for one, times_ms in zip(timers, samples, strict=True):
            time_s = one.timeit(number=1)
            times_ms.append(round(1e3 * time_s, 6))
            total_s += time_s
        num_turns += 1
    return samples


def ratio_in_turns(own: Sequence[float], baseline: Sequence[float]) -> float:
    """The median over turns of one time over the other: a turn of a slow machine is slow in both.

    Args:
        own: The times of one callable, from `time_in_turns`.
        baseline: Those of the other, from the same call.
    """
    return float(np.median(np.divide(own, baseline)))


def spread(samples: Sequence[float]) -> tuple[float, ...]:
    """What a record keeps of samples: all, or `MAX_SAMPLES` at even distances in their order.

    Of lists of one length the same places are kept, so that turns stay together.
    """
    kept = np.linspace(0, len(samples) - 1, min(len(samples), MAX_SAMPLES)).round().astype(int)
    return tuple(samples[place] for place in kept)


def peak_memory(call: Call, device: torch.device) -> int:
    """The most bytes alive at once during one run, beyond those alive before it and not held.

    On CUDA these are the caching allocator's, on the CPU those of torch's allocator: tensors, and
    workspace that operators take as tensors. What a library takes from malloc is not seen.
    """
    call.prepare()
    with _no_garbage_collection():
        peak = _cuda_peak(call, device) if device.type == "cuda" else _cpu_peak(call)
    return call.held_bytes + peak


def _cuda_peak(call: Call, device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call.run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _cpu_peak(call: Call) -> int:
    # Its library announces each start and stop on stderr, through any progress display.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    # Not torch.profiler, which imports the compiler at its first use: 2 seconds.
    profiled: Any = profile(profile_memory=True)
    with profiled:
        result = call.run()
    del result
    events = _flat(profiled.kineto_results.experimental_event_tree())
    changes = [event.extra_fields for event in sorted(events, key=lambda e: e.start_time_ns)]
    return peak_of((change.ptr, change.alloc_size) for change in changes)


def peak_of(changes: Iterable[tuple[int, int]]) -> int:
    """The most bytes alive at once after any of the changes, beyond those alive before them.

    Args:
        changes: (address, size) of every allocation, and of every release with a negative size.
    """
    alive: dict[int, int] = {}  # bytes by address
    now = peak = 0
    for address, size in changes:
        if size > 0:
            alive[address] = size
            now += size
            peak = max(peak, now)
        else:  # of what lived before, torch tells no size, or that of an earlier tenant
            now -= alive.pop(address, 0)
    return peak


def _flat(events: Sequence[Any]) -> Iterator[Any]:
    """The allocations and releases in a tree of profiled events."""
    for event in events:
        if event.name == "[memory]":
            yield event
        yield from _flat(event.children)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Collected now or then, a cycle would make the peak a matter of chance."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def count_flops(call: Call) -> int:
    """The floating-point operations of one run; a multiplication and an addition are two.

    Matrix products, convolutions, fused attention and Fourier transforms count; what works
    element by element does not. Causal fused attention counts the pairs that are not masked.
    """
    call.prepare()
    with _flop_counter() as counter:
        call.run()
    return counter.get_total_flops()


def costs(call: Call, device: torch.device) -> tuple[int, int]:
    """Peak memory and FLOPs of one and the same run: `peak_memory` and `count_flops`.

    Neither changes the other (a test compares), and a long call is not made twice.
    """
    counter = _flop_counter()

    def counted() -> object:
        with counter:
            return call.run()

    return peak_memory(
        Call(counted, call.prepare, call.held_bytes), device
    ), counter.get_total_flops()


def _flop_counter() -> FlopCounterMode:
    return FlopCounterMode(display=False, custom_mapping=FORMULAS)


def weight_bytes(module: nn.Module) -> int:
    """The size of the parameters and buffers."""
    weights = [*module.parameters(), *module.buffers()]
    return sum(weight.numel() * weight.element_size() for weight in weights)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a call failed for want of memory; the CPU allocator raises a plain RuntimeError."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in text or "not enough memory" in text
    )


def num_pairs(query_len: int, context_len: int, is_causal: bool) -> int:
    """The (query, key) pairs that attention computes; causal query i sees the keys 0 to i."""
    if not is_causal:
        return query_len * context_len
    whole_rows = max(0, query_len - context_len)
    triangle = min(query_len, context_len)
    return triangle * (triangle + 1) // 2 + whole_rows * context_len


def _named(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of an operator by the names of its schema; the counter gives tensors' shapes.

    The attention operators agree on names, not on places.
    """
    schema = op.default._schema.arguments
    given = {parameter.name: value for parameter, value in zip(schema, args, strict=False)}
    return {p.name: p.default_value for p in schema if p.has_default_value()} | given | kwargs


def _attention(op: Any, num_products: Callable[[int, int], int]) -> Callable[..., int]:
    """FLOPs of fused attention; `num_products(d_qk, d_v)` multiplications for each pair."""

    def formula(*args: Any, out_shape: Any = None, **kwargs: Any) -> int:
        named = _named(op, args, kwargs)
        batch_size, num_heads, query_len, d_qk = named["query"]
        context_len, d_v = named["value"][-2:]
        pairs = num_pairs(query_len, context_len, named["is_causal"])
        return 2 * batch_size * num_heads * pairs * num_products(d_qk, d_v)

    return formula


def _attention_formulas() -> dict[Any, Callable[..., int]]:
    # torch's own formulas have no operator for the CPU, and count what a causal mask hides.
    fused = ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention")
    formulas = {}
    for name in fused:
        forward = getattr(aten, f"_scaled_dot_product_{name}")
        backward = getattr(aten, f"_scaled_dot_product_{name}_backward")
        formulas[forward] = _attention(forward, lambda d_qk, d_v: d_qk + d_v)
        # q k^T once more, then the gradients of the weights, of v, of q and of k.
        formulas[backward] = _attention(backward, lambda d_qk, d_v: 3 * d_qk + 2 * d_v)
    return formulas


def _convolution_backward(
    grad_out: Any, x: Any, weight: Any, *args: Any, out_shape: Any = None, **kwargs: Any
) -> int:
    """Each gradient costs as much as the forward; torch's formula forgets the groups."""
    named = _named(aten.convolution_backward, (grad_out, x, weight, *args), kwargs)
    places = prod((x if named["transposed"] else grad_out)[2:])
    return 2 * x[0] * places * prod(weight) * sum(named["output_mask"][:2])


def _fourier(flops: float, longer: int) -> Callable[..., int]:
    """The customary 5 n log2 n of the radix-2 algorithm, half of it between real and complex.

    Args:
        flops: The factor of n log2 n.
        longer: Which side has all n numbers, 0 for the input and 1 for the output.
    """

    def formula(x: Any, dims: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
        shape = (x, out_shape)[longer]
        length = prod(shape[dim] for dim in dims)
        return round(flops * prod(shape) * log2(length))

    return formula


FORMULAS: dict[Any, Callable[..., int]] = {
    **_attention_formulas(),
    aten.convolution_backward: _convolution_backward,
    aten.mv: lambda matrix, *_, **__: 2 * prod(matrix),
    aten.addmv: lambda _added, matrix, *_, **__: 2 * prod(matrix),
    aten.dot: lambda a, *_, **__: 2 * prod(a),
    aten._fft_c2c: _fourier(5.0, 0),
    aten._fft_r2c: _fourier(2.5, 0),
    aten._fft_c2r: _fourier(2.5, 1),
}
"""What torch's FLOP counter does not know, or counts wrongly."""
