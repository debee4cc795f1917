"""The measuring itself: a known sleep, a known table of allocations, FLOPs counted by hand."""

import time
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runners.measure import (
    FORMULAS,
    Call,
    costs,
    count_flops,
    is_out_of_memory,
    num_pairs,
    peak_memory,
    time_in_turns,
    weight_bytes,
)

CPU = torch.device("cpu")
aten = torch.ops.aten


def test_a_known_sleep_is_timed_right() -> None:
    (times_ms,) = time_in_turns([Call(lambda: time.sleep(0.02))], min_run_time_s=0.0)
    # A sleep never ends early; on a busy machine it ends late.
    assert all(20.0 <= t < 200.0 for t in times_ms)


def test_preparing_is_not_timed() -> None:
    slow_to_prepare = Call(lambda: None, prepare=lambda: time.sleep(0.02))
    (times_ms,) = time_in_turns([slow_to_prepare], min_run_time_s=0.0)
    assert min(times_ms) < 10.0


def test_calls_take_turns_each_prepared_first() -> None:
    order: list[str] = []
    calls = [
        Call(lambda name=name: order.append(name), lambda name=name: order.append(f"ready {name}"))
        for name in "ab"
    ]
    a, b = time_in_turns(calls, min_run_time_s=0.0, min_calls=4)
    assert order == ["ready a", "a", "ready b", "b"] * 4
    assert len(a) == len(b) == 4


def test_the_budget_sets_the_number_of_calls() -> None:
    calls = [Call(lambda: time.sleep(0.01)), Call(lambda: time.sleep(0.02))]
    a, b = time_in_turns(calls, min_run_time_s=0.2)
    assert len(a) == len(b) <= 7  # 30 ms a turn, more on a busy machine
    assert sum(a) + sum(b) >= 200.0


def test_a_device_is_waited_for() -> None:
    # The clock is the one of torch.utils.benchmark, which synchronises before it reads.
    import timeit

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


def test_a_reused_address_is_not_taken_for_its_former_tenant() -> None:
    # torch's table of sizes keeps what a measurement allocated and was freed after it.
    tenants: list[Tensor] = []
    peak_memory(Call(lambda: tenants.extend(floats(8000) for _ in range(50))), CPU)
    addresses = {tenant.data_ptr() for tenant in tenants}
    tenants.clear()
    tenants.extend(floats(8000) for _ in range(50))
    assert addresses & {tenant.data_ptr() for tenant in tenants}  # else nothing is tested

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
