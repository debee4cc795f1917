"""Print how the linear-time mechanisms scale and how they compare with SDPA, as ratios of one run.

Run: python scripts/compare_speed.py
Cost: about one minute on an idle core.

Forward and backward of the mixing alone (no projections) on one thread, batch 1, 4 heads of 64,
timed in turns so that a machine that slows down slows both sides of a ratio.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from attentions import registry
from attentions.base import MultiHeadAttention, Pattern
from runners.measure import Call, peak_memory, time_in_turns

NUM_HEADS, HEAD_DIM = 4, 64
CPU = torch.device("cpu")

Mix = Callable[[Tensor, Tensor, Tensor], Tensor]


def mechanism(name: str, pattern: Pattern, **settings: int) -> Mix:
    """The mixing of a mechanism of the registry, with other settings than its YAML's."""
    config = registry.load(name)
    config.update(settings)
    attention = registry.factory(config)(NUM_HEADS * HEAD_DIM, NUM_HEADS, pattern)
    assert isinstance(attention, MultiHeadAttention)
    return attention.mix


def forward_backward(mix: Mix, length: int) -> Call:
    """One pass with all gradients over fresh q, k, v of this length."""
    size = (1, NUM_HEADS, length, HEAD_DIM)
    qkv = [torch.randn(size, requires_grad=True) for _ in range(3)]
    upstream = torch.randn(size)
    call = Call(lambda: torch.autograd.grad(mix(*qkv), qkv, upstream))
    call.run()
    return call


def time_ratio(above: Call, below: Call) -> float:
    """Ratio of the fastest of at least five turns: what other processes take away only adds."""
    first, second = time_in_turns([above, below], min_run_time_s=8.0, min_calls=5)
    return min(first) / min(second)


def memory_ratio(mix: Mix, long: int, short: int) -> float:
    """Ratio of the peaks at two lengths."""
    above, below = (peak_memory(forward_backward(mix, n), CPU) for n in (long, short))
    return above / below


def show(what: str, ratio: float, limit: float) -> None:
    verdict = "ok" if ratio <= limit else "MISSED"
    print(f"{what:<66} {ratio:7.3f}  <= {limit:5.3f}  {verdict}", flush=True)


def main() -> None:
    torch.set_num_threads(1)
    causal = mechanism("linear_elu", Pattern.CAUSAL_SELF)
    window = mechanism("local_window", Pattern.NONCAUSAL_SELF, window=128)

    def sdpa_causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    print("forward + backward, 1 thread, float32, batch 1, 4 heads of 64")
    ratio = time_ratio(forward_backward(causal, 16384), forward_backward(causal, 4096))
    show("causal linear_elu: time at 16384 / time at 4096", ratio, 4.6)
    show("causal linear_elu: peak memory, same lengths", memory_ratio(causal, 16384, 4096), 4.1)
    qkv_bytes = 3 * 4 * 16384 * NUM_HEADS * HEAD_DIM
    peak = peak_memory(forward_backward(causal, 16384), CPU)
    show("causal linear_elu: peak memory at 16384 / size of q + k + v", peak / qkv_bytes, 12.0)
    ratio = time_ratio(forward_backward(causal, 8192), forward_backward(sdpa_causal, 8192))
    show("causal linear_elu / causal SDPA: time at 8192", ratio, 1.0)
    full = forward_backward(F.scaled_dot_product_attention, 8192)
    ratio = time_ratio(forward_backward(window, 8192), full)
    show("local_window 128 / full SDPA: time at 8192", ratio, 1 / 6)
    show("local_window 128: peak memory, 8192 / 2048", memory_ratio(window, 8192, 2048), 4.1)


if __name__ == "__main__":
    main()
