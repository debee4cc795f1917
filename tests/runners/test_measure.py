"""The measuring itself: a known sleep, a known table of allocations, FLOPs counted by hand."""

import timeit
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runners import measure
from runners.measure import (
    FORMULAS,
    MAX_SAMPLES,
    Call,
    costs,
    count_flops,
    is_out_of_memory,
    num_pairs,
    peak_memory,
    peak_of,
    ratio_in_turns,
    spread,
    time_in_turns,
    weight_bytes,
)

CPU = torch.device("cpu")
aten = torch.ops.aten


class Clock:
    """A clock that only a call moves: what is asserted of times does not hang on the machine."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def takes(self, *times_s: float) -> Callable[[], None]:
        """Something that takes these times, one after another, and the last ever after."""
        left = list(times_s)

        def run() -> None:
            self.now_s += left.pop(0) if len(left) > 1 else left[0]

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(measure, "timer", made)
    return made


def test_every_call_is_timed_in_ms(clock: Clock) -> None:
    (times_ms,) = time_in_turns(
        [Call(clock.takes(0.02, 0.05, 0.001))], min_run_time_s=0.0, min_calls=3
    )
    assert times_ms == [20.0, 50.0, 1.0]


def test_preparing_is_not_timed(clock: Clock) -> None:
    slow_to_prepare = Call(clock.takes(0.001), prepare=clock.takes(7.0))
    (times_ms,) = time_in_turns([slow_to_prepare], min_run_time_s=0.0)
    assert times_ms == [1.0] * 5


def test_calls_take_turns_each_prepared_first() -> None:
    order: list[str] = []
    calls = [
        Call(lambda name=name: order.append(name), lambda name=name: order.append(f"ready {name}"))
        for name in "ab"
    ]
    a, b = time_in_turns(calls, min_run_time_s=0.0, min_calls=4)
    assert order == ["ready a", "a", "ready b", "b"] * 4
    assert len(a) == len(b) == 4


def test_the_budget_sets_the_number_of_calls(clock: Clock) -> None:
    calls = [Call(clock.takes(0.01)), Call(clock.takes(0.02))]
    a, b = time_in_turns(calls, min_run_time_s=0.2)
    assert a == [10.0] * 7  # the first number of turns of 30 ms that fills 200
    assert b == [20.0] * 7


def test_the_ratio_is_that_of_single_turns() -> None:
    # The machine falls to a third of its speed: the ratio of medians would be 10 / 6.
    own, baseline = [10.0, 10.0, 30.0, 30.0, 10.0], [2.0, 2.0, 6.0, 6.0, 6.0]
    assert ratio_in_turns(own, baseline) == 5.0


@pytest.mark.parametrize("num_calls", [1, 5, MAX_SAMPLES, MAX_SAMPLES + 1, 1234])
def test_a_record_keeps_samples_from_the_first_turn_to_the_last(num_calls: int) -> None:
    turns = [float(i) for i in range(num_calls)]
    kept = spread(turns)
    assert len(kept) == min(num_calls, MAX_SAMPLES)
    assert kept == tuple(sorted(set(kept)))  # in order, and none twice
    assert (kept[0], kept[-1]) == (turns[0], turns[-1])
    gaps = {round(later - earlier) for earlier, later in pairwise(kept)}
    assert max(gaps, default=1) - min(gaps, default=1) <= 1


def test_a_device_is_waited_for() -> None:
    # The clock is the one of torch.utils.benchmark, which synchronises before it reads.
    import torch.utils.benchmark

    made: list[Callable[[], float]] = []

    class Recorder(timeit.Timer):
        def __init__(self, stmt: object, setup: object, timer: Callable[[], float]) -> None:
            made.append(timer)
            super().__init__(stmt, setup, timer)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timeit, "Timer", Recorder)
        time_in_turns([Call(lambda: None)], min_run_time_s=0.0)
    assert made == [torch.utils.benchmark.timer]


def floats(num_bytes: int) -> Tensor:
    return torch.empty(num_bytes // 4)


def allocate_by_the_table() -> Tensor:
    """Bytes alive after each line: 1000, 3000, 2000, 2500, 500."""
    first = floats(1000)
    second = floats(2000)
    del first
    third = floats(500)
    del second
    return third


def test_the_peak_of_a_known_table_of_allocations() -> None:
    assert peak_memory(Call(allocate_by_the_table), CPU) == 3000


def test_what_lived_before_the_call_is_not_counted() -> None:
    kept = [floats(4000)]

    def free_and_allocate() -> None:
        kept.clear()  # cannot make the peak negative or smaller
        kept.append(floats(1200))

    assert peak_memory(Call(free_and_allocate), CPU) == 1200


def test_an_address_serves_one_tenant_after_another() -> None:
    a, b = 0x1000, 0x2000
    assert peak_of([(a, 8000), (a, -8000), (a, 400), (b, 300), (a, -400), (b, -300)]) == 8000
    assert peak_of([(a, 400), (a, -400), (a, 8000), (b, 300)]) == 8300


@pytest.mark.parametrize("told", [-8000, 0])
def test_a_release_of_what_lived_before_frees_no_room(told: int) -> None:
    # torch tells the size of such a release from a table that keeps an earlier measurement's
    # tenants of the address, or tells none.
    assert peak_of([(0x1000, told), (0x2000, 1200), (0x1000, 500)]) == 1700


def test_what_a_measurement_left_behind_is_not_counted_in_the_next() -> None:
    tenants: list[Tensor] = []
    peak_memory(Call(lambda: tenants.extend(floats(8000) for _ in range(50))), CPU)
    tenants.clear()  # their addresses serve the next, where the allocator reuses them
    tenants.extend(floats(8000) for _ in range(50))

    def free_and_allocate() -> Tensor:
        tenants.clear()
        return floats(1200)

    assert peak_memory(Call(free_and_allocate), CPU) == 1200


def test_what_preparing_allocates_and_frees_is_not_counted() -> None:
    held: list[Tensor] = []
    call = Call(run=lambda: held.append(floats(800)), prepare=held.clear)
    assert [peak_memory(call, CPU) for _ in range(3)] == [800, 800, 800]


def test_a_peak_cannot_grow_from_one_measurement_to_the_next() -> None:
    assert peak_memory(Call(lambda: floats(8000)), CPU) == 8000
    assert peak_memory(Call(lambda: floats(400)), CPU) == 400


def test_unnamed_temporaries_are_seen() -> None:
    a, b = torch.ones(64, 64), torch.ones(64, 64)
    peak = peak_memory(Call(lambda: (a * b).exp().sum()), CPU)
    assert peak == 2 * a.numel() * 4  # the product and its exp; then the product is freed


def test_the_workspace_of_an_operator_is_seen() -> None:
    q = torch.randn(1, 1, 256, 8)
    output, log_sums = 256 * 8 * 4, 256 * 4
    # The fused CPU kernel works in blocks, in a buffer that no one outside ever holds.
    peak = peak_memory(Call(lambda: F.scaled_dot_product_attention(q, q, q)), CPU)
    assert peak > output + log_sums


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_the_peak_on_cuda() -> None:
    def allocate() -> None:
        first = torch.empty(2**20, device="cuda")
        second = torch.empty(2**21, device="cuda")
        del first, second
        torch.empty(2**19, device="cuda")

    for _ in range(2):
        assert peak_memory(Call(allocate), torch.device("cuda")) == 4 * (2**20 + 2**21)


def test_the_flops_of_a_matrix_product() -> None:
    a, b = torch.ones(3, 5), torch.ones(5, 7)
    assert count_flops(Call(lambda: a @ b)) == 2 * 3 * 5 * 7
    assert count_flops(Call(lambda: a @ b[:, 0])) == 2 * 3 * 5
    assert count_flops(Call(lambda: a[0] @ b[:, 0])) == 2 * 5
    assert count_flops(Call(lambda: torch.addmv(a[:, 0], a, b[:, 0]))) == 2 * 3 * 5


def pairs_by_looking(query_len: int, context_len: int) -> int:
    return sum(j <= i for i in range(query_len) for j in range(context_len))


@pytest.mark.parametrize(("query_len", "context_len"), [(1, 1), (6, 6), (6, 9), (9, 6), (9, 1)])
def test_the_pairs_that_a_causal_mask_leaves(query_len: int, context_len: int) -> None:
    assert num_pairs(query_len, context_len, True) == pairs_by_looking(query_len, context_len)
    assert num_pairs(query_len, context_len, False) == query_len * context_len


@pytest.mark.parametrize(
    ("length", "context_len", "is_causal", "pairs"),
    [(10, 10, False, 100), (10, 10, True, 55), (10, 6, False, 60)],
)
def test_the_flops_of_fused_attention(
    length: int, context_len: int, is_causal: bool, pairs: int
) -> None:
    q = torch.randn(2, 3, length, 8, requires_grad=True)
    k, v = (torch.randn(2, 3, context_len, 8, requires_grad=True) for _ in range(2))
    products = 2 * 3 * pairs * 8  # batch, heads, pairs, head_dim: those of q k^T, or of weights v

    def forward() -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=is_causal)

    assert count_flops(Call(forward)) == 2 * 2 * products
    both = count_flops(Call(lambda: forward().sum().backward()))
    assert both == (2 + 5) * 2 * products  # backward: q k^T again and four gradients


@pytest.mark.parametrize("is_causal", [False, True])
def test_the_flops_of_fused_attention_with_values_of_another_width(is_causal: bool) -> None:
    # The formulas take shapes: no kernel of the CPU has two widths.
    batch, heads, m, n, d_qk, d_v = 2, 3, 10, 7, 8, 32
    q, k, v = (batch, heads, m, d_qk), (batch, heads, n, d_qk), (batch, heads, n, d_v)
    out = (batch, heads, m, d_v)
    pairs = pairs_by_looking(m, n) if is_causal else m * n
    name = "_scaled_dot_product_flash_attention_for_cpu"
    forward = FORMULAS[getattr(aten, name)](q, k, v, 0.0, is_causal)
    backward = FORMULAS[getattr(aten, f"{name}_backward")](out, q, k, v, out, (), 0.0, is_causal)
    qk, pv = (2 * batch * heads * pairs * width for width in (d_qk, d_v))
    assert forward == qk + pv
    # q k^T again; the gradients of the weights and of v, d_v wide; those of q and k, d_qk wide.
    assert backward == 3 * qk + 2 * pv


def test_the_flops_of_grouped_query_attention_are_those_of_all_query_heads() -> None:
    q, kv = torch.randn(1, 4, 6, 8), torch.randn(1, 2, 6, 8)
    call = Call(lambda: F.scaled_dot_product_attention(q, kv, kv, enable_gqa=True))
    assert count_flops(call) == 2 * 2 * 4 * 6 * 6 * 8


Q, KV = (1, 2, 10, 8), (1, 2, 10, 8)
ROWS = (1, 2, 10)
FUSED_FORWARD = {  # the places of `is_causal` in torch's native_functions.yaml
    "flash_attention_for_cpu": (Q, KV, KV, 0.0, True),
    "flash_attention": (Q, KV, KV, 0.0, True, False),
    "efficient_attention": (Q, KV, KV, None, True, 0.0, True),
    "cudnn_attention": (Q, KV, KV, None, True, 0.0, True, False),
}
FUSED_BACKWARD = {
    "flash_attention_for_cpu": (Q, Q, KV, KV, Q, ROWS, 0.0, True),
    "flash_attention": (Q, Q, KV, KV, Q, ROWS, None, None, 10, 10, 0.0, True, (), ()),
    "efficient_attention": (Q, Q, KV, KV, None, Q, ROWS, (), (), 0.0, [True] * 4, True),
    "cudnn_attention": (*(Q, Q, KV, KV, Q, ROWS, (), (), None, None, None, 10, 10, 0.0, True),),
}


@pytest.mark.parametrize("name", list(FUSED_FORWARD))
def test_every_fused_kernel_counts_the_unmasked_pairs(name: str) -> None:
    forward = FORMULAS[getattr(aten, f"_scaled_dot_product_{name}")]
    backward = FORMULAS[getattr(aten, f"_scaled_dot_product_{name}_backward")]
    products = 2 * 55 * 8
    assert forward(*FUSED_FORWARD[name]) == 2 * 2 * products
    assert backward(*FUSED_BACKWARD[name]) == 5 * 2 * products


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_each_gradient_of_a_convolution_costs_as_much_as_its_forward(groups: int) -> None:
    conv = nn.Conv1d(4, 8, 3, groups=groups, bias=False)
    x = torch.randn(2, 4, 12, requires_grad=True)
    forward = 2 * 2 * 10 * 8 * (4 // groups) * 3  # batch, places, channels out and in, width
    assert count_flops(Call(lambda: conv(x))) == forward
    assert count_flops(Call(lambda: conv(x).sum().backward())) == 3 * forward
    assert count_flops(Call(lambda: conv(x.detach()).sum().backward())) == 2 * forward


def test_the_flops_of_a_transposed_convolution() -> None:
    conv = nn.ConvTranspose1d(4, 8, 3, bias=False)
    x = torch.randn(2, 4, 12, requires_grad=True)
    forward = 2 * 2 * 12 * 4 * 8 * 3
    assert count_flops(Call(lambda: conv(x).sum().backward())) == 3 * forward


def test_the_flops_of_fourier_transforms() -> None:
    x = torch.randn(3, 64)
    assert count_flops(Call(lambda: torch.fft.fft(x.to(torch.complex64)))) == 3 * 5 * 64 * 6
    assert count_flops(Call(lambda: torch.fft.rfft(x))) == 3 * 2.5 * 64 * 6
    spectrum = torch.fft.rfft(x)
    assert count_flops(Call(lambda: torch.fft.irfft(spectrum))) == 3 * 2.5 * 64 * 6


def test_counting_flops_does_not_change_the_peak() -> None:
    # The counter must not keep tensors alive, nor make a gradient that is copied.
    layer = nn.Linear(16, 16)
    x = torch.randn(64, 16, requires_grad=True)

    def forget() -> None:
        x.grad = None
        layer.zero_grad()

    def step() -> None:
        q = layer(x)[None, None]
        F.scaled_dot_product_attention(q, q, q, is_causal=True).sum().backward()

    call = Call(step, forget)
    assert costs(call, CPU) == (peak_memory(call, CPU), count_flops(call))


def test_the_size_of_the_weights_includes_buffers() -> None:
    module = nn.BatchNorm1d(10)  # weight, bias, mean, variance in float32, a counter in int64
    assert weight_bytes(module) == 4 * 10 * 4 + 8


def test_out_of_memory_is_recognised() -> None:
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**50)
    assert is_out_of_memory(refused.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("can't allocate memory for this name"))
