"""`attnbench speed`: what is measured, beside what, and what happens when it cannot be."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes, _get_current_dispatch_mode

from attentions.base import Attention, MultiHeadAttention, Pattern, State, Unavailable
from attentions.functional import delta_rule, fla, flex, gated_scan, scan
from attentions.registry import CONF, load, mechanism, names
from attentions.softmax.softmax import SoftmaxAttention
from runners import passes, speed
from runners.measure import MAX_SAMPLES
from runners.records import Measurement
from runners.run import Run, TimeLimit
from tests.attentions.test_flex import by_lists

E, H, D = 24, 3, 8
TINY = [f"embed_dim={E}", f"num_heads={H}", "batch_size=2", "min_run_time_s=0.001", "device=cpu"]


class Recorder(MultiHeadAttention):
    """Averages its keys; tells the mode that it was run in and the lengths that it met."""

    patterns = frozenset(Pattern)
    met: list[tuple[bool, bool, int]]

    def mix(self, q: Tensor, k: Tensor, v: Tensor, **masks: Any) -> Tensor:
        Recorder.met.append((self.training, torch.is_grad_enabled(), q.shape[-2]))
        return self.averaged(q, v)

    def averaged(self, q: Tensor, v: Tensor) -> Tensor:
        return v.mean(dim=-2, keepdim=True).expand_as(q)


class Hungry(Recorder):
    """Wants more memory than there is, from 32 positions on, but for a kernel of its own."""

    backends: ClassVar = {"lean": frozenset(Pattern)}

    def averaged(self, q: Tensor, v: Tensor) -> Tensor:
        if q.shape[-2] >= 32 and self.backend == "torch":
            torch.empty(2**50)
        return super().averaged(q, v)


class Uncountable(Recorder):
    """Fails under a FLOP counter alone, as torch's flex_attention does."""

    def averaged(self, q: Tensor, v: Tensor) -> Tensor:
        if _get_current_dispatch_mode() is not None:
            raise TypeError("no implementation found for 'flex_attention'")
        return super().averaged(q, v)


class Broken(Recorder):
    """Fails from 32 positions on."""

    def averaged(self, q: Tensor, v: Tensor) -> Tensor:
        if q.shape[-2] >= 32:
            raise RuntimeError("the kernel fell over")
        return super().averaged(q, v)


class Late(Recorder):
    """Is stopped by the time limit of the run at 32 positions."""

    def averaged(self, q: Tensor, v: Tensor) -> Tensor:
        if q.shape[-2] >= 32:
            raise TimeLimit("took longer than run.timeout_s = 1")
        return super().averaged(q, v)


class Bounded(SoftmaxAttention):
    """Refuses to go beyond `max_len`, like a mechanism with a weight per position."""

    max_lens: ClassVar[list[int | None]] = []

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        Bounded.max_lens.append(self.max_len)

    def step(self, query: Tensor, state: State) -> tuple[Tensor, State]:
        assert self.max_len is not None
        assert state.position < self.max_len
        return super().step(query, state)


@pytest.fixture(autouse=True)
def _nothing_met() -> None:
    Recorder.met = []


def prepared(*overrides: str) -> Run:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("speed", overrides=[*TINY, *overrides])
    return Run("some_run", config, Path("nowhere"))


def measured(*overrides: str) -> Run:
    run = prepared(*overrides)
    speed.measure(run)
    return run


def own(cls: type[Attention]) -> list[str]:
    return ["attention=custom", f"attention._target_={__name__}.{cls.__name__}"]


def rows(run: Run, attention: str | None = None) -> dict[tuple[str, int | None], Measurement]:
    found = [m for m in run.measurements if m.attention == attention]
    table = {(m.metric, m.seq_len): m for m in found}
    assert len(table) == len(found)  # no row twice
    return table


def value(run: Run, metric: str, seq_len: int, attention: str | None = None) -> float:
    found = rows(run, attention)[metric, seq_len].value
    assert found is not None
    return found


@pytest.mark.parametrize("pattern", list(Pattern))
def test_every_pass_at_every_length_is_measured_beside_the_baseline(pattern: Pattern) -> None:
    run = measured("attention=linear_elu", f"pattern={pattern}", "seq_lens=[32,16]")
    names = passes.PASSES if pattern.is_causal else ("forward", "forward_backward")
    parts = ("time", "time_iqr", "time_calls", "memory", "flops")
    metrics = {f"{name}_{part}" for name in names for part in parts} | {"weights_memory"}
    metrics |= {"state_size", "state_elements"} if pattern.is_causal else set()
    ratios = {f"{name}_time_ratio" for name in names}
    lengths = (16, 32)
    assert set(rows(run, "softmax")) == {(m, n) for m in metrics for n in lengths}
    assert set(rows(run)) == {(m, n) for m in metrics | ratios for n in lengths}
    for m in run.measurements:
        assert m.value is not None, m
        assert m.value > 0 or m.metric.endswith("_iqr"), m
    for name in names:
        for n in lengths:
            assert value(run, f"{name}_time_calls", n) >= 5
    assert run.labels["num_threads"] == torch.get_num_threads()
    assert run.labels["device"] == "cpu"


def test_a_mechanism_can_be_its_own_baseline() -> None:
    # The control: what its ratio differs from 1 by is the noise of the machine.
    run = measured("attention=softmax", "pattern=noncausal_self", "seq_lens=[16]")
    assert value(run, "forward_time_ratio", 16) > 0
    for metric in ("forward_flops", "forward_memory", "forward_backward_memory"):
        assert value(run, metric, 16) == value(run, metric, 16, "softmax")


def test_both_are_timed_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[int] = []
    own, softmax = [3.0, 1.0, 2.0, 100.0], [4.0, 4.0, 1.0, 40.0]

    def time_in_turns(calls: list[object], *, min_run_time_s: float) -> list[list[float]]:
        timed.append(len(calls))
        return [own, softmax]

    monkeypatch.setattr(speed, "time_in_turns", time_in_turns)
    run = measured("pattern=noncausal_self", "seq_lens=[16]", "passes=[forward]")
    assert timed == [2]
    for who, samples in ((None, own), ("softmax", softmax)):
        kept = {metric: m.samples for (metric, _), m in rows(run, who).items() if m.samples}
        assert kept == {"forward_time": tuple(samples)}  # in order, at the median alone
    assert value(run, "forward_time", 16) == 2.5  # the median of single calls, not their mean
    assert value(run, "forward_time_iqr", 16) == 27.25 - 1.75
    assert value(run, "forward_time_calls", 16) == 4
    assert value(run, "forward_time_ratio", 16) == (0.75 + 2.0) / 2  # of 0.25, 0.75, 2 and 2.5


def test_a_long_list_of_calls_does_not_swell_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    times = [[float(i) for i in range(1, 10_001)], [2.0] * 10_000]
    monkeypatch.setattr(speed, "time_in_turns", lambda calls, **_: times)
    run = measured("pattern=noncausal_self", "seq_lens=[16]", "passes=[forward]")
    assert len(rows(run)["forward_time", 16].samples) == MAX_SAMPLES
    assert value(run, "forward_time_calls", 16) == 10_000
    assert value(run, "forward_time", 16) == 5000.5  # of all


def attention_flops(query_len: int, context_len: int, pairs: int) -> int:
    """Softmax attention by hand, batch 2: projections of both sequences, then two products."""
    projections = 2 * 2 * (2 * query_len + 2 * context_len) * E * E
    return projections + 2 * 2 * 2 * H * pairs * D


def test_flops_are_those_of_the_formula() -> None:
    run = measured("attention=none", "pattern=causal_self", "seq_lens=[16]")
    one_token = 2 * 2 * 4 * E * E
    assert value(run, "forward_flops", 16, "softmax") == attention_flops(16, 16, 16 * 17 // 2)
    assert value(run, "prefill_flops", 16, "softmax") == attention_flops(16, 16, 16 * 17 // 2)
    # The step that is counted follows one in advance: 16 + 2 keys.
    assert value(run, "decode_flops", 16, "softmax") == one_token + 2 * 2 * 2 * H * 18 * D
    assert value(run, "forward_flops", 16) == 0
    backward = 2 * (2 * 2 * 4 * 16 * E * E) + 5 * 2 * 2 * H * 136 * D
    both = value(run, "forward_backward_flops", 16, "softmax")
    assert both == attention_flops(16, 16, 136) + backward


WITH_KERNELS = [(name, backend) for name in names()
                for backend in mechanism(load(name)["_target_"]).backends]  # fmt: skip


def unseen(form: Callable[..., Any]) -> Callable[..., Any]:
    """A form in torch that no counter sees, as it sees nothing of a kernel in Triton."""

    def run(*args: Any, **settings: Any) -> Any:
        with _disable_current_modes():
            return form(*args, **settings)

    return run


@pytest.fixture
def kernels_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands for fla and flex, which need CUDA, with what they compute."""
    monkeypatch.setattr("attentions.base.find_spec", lambda _: object())
    for name, form in (
        ("causal_scan", lambda q, k, v, decay=None: scan.causal_scan(q, k, v, log_decay=decay)),
        ("gated_scan", gated_scan.gated_scan),
        ("delta_rule", delta_rule.delta_rule),
    ):
        monkeypatch.setattr(fla, name, unseen(form))
    monkeypatch.setattr(flex, "_run", unseen(by_lists))


@pytest.mark.usefixtures("kernels_unseen")
@pytest.mark.parametrize(("name", "backend"), WITH_KERNELS)
def test_the_flops_of_every_kernel_are_those_of_the_form_in_torch(name: str, backend: str) -> None:
    run = prepared(f"attention={name}", "pattern=causal_self")
    counting, counted = ("forward_backward", "decode"), []
    for kernel in ("torch", backend):
        run.config.attention.backend = kernel
        bench = speed.Bench(run)
        counted.append([bench.cost(None, 70, name) for name in counting])
    for name, of_torch, of_kernel in zip(counting, *counted, strict=True):
        flops = f"{name}_flops"
        assert of_kernel.values[flops] == of_torch.values[flops]
        assert flops not in of_torch.comments
        assert f"not of backend {backend}" in of_kernel.comments[flops]


@pytest.mark.usefixtures("kernels_unseen")
def test_the_flops_of_linear_attention_on_the_kernel_of_fla() -> None:
    settings = ["attention=linear_elu", "attention.backend=fla", "pattern=causal_self"]
    sizes = ["embed_dim=32", "num_heads=2", "batch_size=1", "seq_lens=[70]", "passes=[forward]"]
    # For each of 2 heads, 16 wide, and 2 chunks of 64: q k^T, its product with v and the ones of
    # the normaliser, k^T v and its product with q; over the chunks, a triangle of 2 by 2.
    chunk = 2 * 64**2 * (16 + 17) + 2 * 2 * 64 * 16 * 17
    by_hand = 4 * 2 * 70 * 32**2 + 2 * (2 * chunk + 2 * 2**2 * 16 * 17)
    assert value(measured(*settings, *sizes), "forward_flops", 70) == by_hand


def test_kernels_are_in_their_place_again_after_the_count() -> None:
    module = Hungry(E, H, Pattern.CAUSAL_SELF, backend="lean")
    with passes.in_torch_form(module):
        assert passes.backends(module) == []
    assert passes.backends(module) == ["lean"]


def test_without_the_memory_for_the_form_in_torch_flops_alone_are_missing() -> None:
    lean = [*own(Hungry), "+attention.backend=lean"]
    run = measured(*lean, "pattern=noncausal_self", "seq_lens=[16,32]")
    assert value(run, "forward_flops", 16) > 0
    row = rows(run)["forward_flops", 32]
    assert row.value is None
    assert "oom in the form of backend torch" in row.comment
    assert value(run, "forward_time", 32) > 0
    assert value(run, "forward_memory", 32) > 0


def test_flops_that_the_counter_refuses_to_count_are_missing_and_nothing_else() -> None:
    run = measured(*own(Uncountable), "pattern=noncausal_self", "seq_lens=[16]")
    row = rows(run)["forward_flops", 16]
    assert row.value is None
    assert "not counted: no implementation found" in row.comment
    assert value(run, "forward_time", 16) > 0
    assert value(run, "forward_flops", 16, "softmax") > 0


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0])
def test_the_query_of_a_cross_pattern_can_have_another_length(ratio: float) -> None:
    run = measured(
        "attention=none", "pattern=causal_cross", f"query_ratio={ratio}", "seq_lens=[16]"
    )
    query_len = int(16 * ratio)
    flops = attention_flops(query_len, 16, query_len * 16)
    assert value(run, "forward_flops", 16, "softmax") == flops
    assert value(run, "prefill_flops", 16, "softmax") == flops
    assert value(run, "forward_memory", 16) * 2**20 == 2 * query_len * E * 4


def test_memory_is_what_the_call_adds() -> None:
    run = measured("attention=none", "pattern=causal_self", "seq_lens=[16,64]")
    for n in (16, 64):
        output = 2 * n * E * 4  # the control returns zeros and allocates nothing else
        assert value(run, "forward_memory", n) * 2**20 == output
        assert value(run, "forward_backward_memory", n) * 2**20 == output
        assert value(run, "decode_memory", n) * 2**20 == 2 * E * 4
        assert value(run, "weights_memory", n, "softmax") * 2**20 == 4 * (E * E + E) * 4
        assert value(run, "state_size", n, "softmax") == 2 * 2 * n * E * 4  # keys and values
        assert value(run, "state_size", n) == 0
        assert value(run, "state_elements", n, "softmax") == 2 * n * E  # of one sequence
        assert value(run, "state_elements", n) == 0
        beside_the_state = value(run, "decode_memory", n, "softmax") * 2**20 - 2 * 2 * n * E * 4
        assert 0 < beside_the_state < 2 * 16 * E * 4  # projections of one token


def test_dtype_sets_the_size_of_everything() -> None:
    run = measured("attention=none", "pattern=causal_self", "seq_lens=[16]", "dtype=bfloat16")
    assert value(run, "forward_memory", 16) * 2**20 == 2 * 16 * E * 2
    assert value(run, "state_size", 16, "softmax") == 2 * 2 * 16 * E * 2


def test_forward_is_inference_and_forward_backward_is_training() -> None:
    measured(*own(Recorder), "pattern=noncausal_self", "seq_lens=[16]", "passes=[forward]")
    assert {(training, graph) for training, graph, _ in Recorder.met} == {(False, False)}
    Recorder.met.clear()
    measured(*own(Recorder), "pattern=noncausal_self", "seq_lens=[16]", "passes=[forward_backward]")
    assert {(training, graph) for training, graph, _ in Recorder.met} == {(True, True)}


def test_gradients_reach_inputs_and_weights_and_are_cleared_for_each_call() -> None:
    module = SoftmaxAttention(E, H, Pattern.NONCAUSAL_CROSS)
    query, context = torch.randn(2, 5, E), torch.randn(2, 7, E)
    call = passes.forward_backward(module, query, context)
    call.prepare()
    call.run()
    first = module.q_proj.weight.grad
    assert first is not None
    call.prepare()
    assert all(parameter.grad is None for parameter in module.parameters())
    call.run()
    second = module.q_proj.weight.grad
    assert second is not None
    assert torch.equal(first, second)  # not the sum of two


def test_decoding_stays_at_its_context_and_never_beyond_max_len() -> None:
    n, steps = 64, passes.Decoding.num_steps(64)
    module = SoftmaxAttention(E, H, Pattern.CAUSAL_SELF, max_len=n + steps)
    decoding = passes.Decoding(module, torch.randn(2, n, E))
    kept = {name: memory.clone() for name, memory in decoding.kept.tensors.items()}
    call = decoding.call()
    positions = []
    for _ in range(50):
        call.prepare()
        positions.append(decoding.state.position)
        call.run()
        assert decoding.state.position <= n + steps
    # One step was made in advance, and a rewind comes after n / 16 more.
    assert positions == [n + 1 + i % 4 for i in range(50)]
    for name, memory in decoding.kept.tensors.items():
        assert torch.equal(memory, kept[name])  # steps write into a copy


def test_max_len_leaves_room_for_the_steps_alone() -> None:
    measured(*own(Bounded), "pattern=causal_self", "seq_lens=[64]", "min_run_time_s=0.01")
    assert Bounded.max_lens == [64, 64, 64, 64 + 5]


def test_the_step_at_which_a_buffer_grows_is_not_measured() -> None:
    module = SoftmaxAttention(E, H, Pattern.CAUSAL_SELF)
    decoding = passes.Decoding(module, torch.randn(2, 64, E))
    call = decoding.call()
    rooms = set()
    for _ in range(20):
        call.prepare()
        call.run()
        rooms.add(decoding.state.tensors["k"].shape[-2])
    assert len(rooms) == 1


def test_decoding_answers_what_the_parallel_form_answers() -> None:
    module = SoftmaxAttention(E, H, Pattern.CAUSAL_SELF).double()
    prompt = torch.randn(2, 32, E, dtype=torch.float64)
    answers: list[Tensor] = []
    step = module.step

    def told(query: Tensor, state: State) -> tuple[Tensor, State]:
        out, state = step(query, state)
        answers.append(out)
        return out, state

    module.step = told  # type: ignore[method-assign]
    call = passes.Decoding(module, prompt).call()
    call.run()
    with torch.no_grad():
        whole = module(torch.cat([prompt, prompt[:, :1], prompt[:, :1]], dim=1))
    # The same sums by another kernel, in float64.
    torch.testing.assert_close(torch.cat(answers, dim=1), whole[:, -2:], rtol=1e-9, atol=1e-9)


def test_a_length_without_the_memory_ends_the_pass_but_keeps_the_rest() -> None:
    run = measured(*own(Hungry), "pattern=noncausal_self", "seq_lens=[16,32,64]")
    found = rows(run)
    assert value(run, "forward_time", 16) > 0
    for n in (32, 64):
        for metric in ("forward_time", "forward_memory", "forward_flops", "forward_time_ratio"):
            assert found[metric, n].value is None
            assert "oom at 32" in found[metric, n].comment
        assert value(run, "forward_time", n, "softmax") > 0  # the baseline goes on
    assert max(length for _, _, length in Recorder.met) == 32  # 64 was not even tried


def test_the_baseline_can_run_out_of_memory_alone() -> None:
    run = prepared("attention=none", "pattern=noncausal_self", "seq_lens=[16,32]")
    bench = speed.Bench(run)
    bench.factories["softmax"] = Hungry
    for n in (16, 32):
        bench.measure(n, "forward")
    assert value(run, "forward_time", 32) > 0
    assert rows(run)["forward_time_ratio", 32].value is None
    assert "softmax: oom at 32" in rows(run)["forward_time_ratio", 32].comment


def test_any_other_failure_is_a_failure() -> None:
    run = prepared(*own(Broken), "pattern=noncausal_self", "seq_lens=[16,32]")
    with pytest.raises(RuntimeError, match="the kernel fell over"):
        speed.measure(run)
    assert value(run, "forward_time", 16) > 0


def test_a_pass_with_too_long_a_call_is_not_timed() -> None:
    run = measured("pattern=noncausal_self", "seq_lens=[16,32]", "max_call_s=1.0e-9")
    found: Mapping[tuple[str, int | None], Measurement] = rows(run)
    assert found["forward_time", 16].value is None
    assert "timeout at 16" in found["forward_time", 16].comment
    assert "max_call_s" in found["forward_time", 16].comment
    assert value(run, "forward_flops", 16) > 0  # was counted in the one call
    assert found["forward_flops", 32].value is None


def test_the_time_limit_of_the_run_leaves_a_row_for_all_that_remains() -> None:
    run = prepared(*own(Late), "pattern=noncausal_self", "seq_lens=[16,32,64]")
    with pytest.raises(TimeLimit):
        speed.measure(run)
    found = rows(run)
    assert value(run, "forward_backward_time", 16) > 0
    for n in (32, 64):
        for name in ("forward", "forward_backward"):
            assert found[f"{name}_time", n].value is None
            assert "timeout at 32" in found[f"{name}_time", n].comment
            assert rows(run, "softmax")[f"{name}_time", n].value is None


def test_a_mechanism_without_a_decoding_step_is_measured_otherwise() -> None:
    run = measured(*own(Recorder), "pattern=causal_self", "seq_lens=[16]")
    assert value(run, "forward_backward_time", 16) > 0
    row = rows(run)["decode_time", 16]
    assert row.value is None
    assert "Recorder has no decoding" in row.comment


def test_lengths_ascend_and_the_module_is_built_for_each() -> None:
    run = measured(*own(Recorder), "pattern=noncausal_self", "seq_lens=[64,16,16]")
    lengths = [length for _, _, length in Recorder.met]
    assert lengths == sorted(lengths)
    assert {m.seq_len for m in run.measurements} == {16, 64}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("passes=[foward]", "unknown pass 'foward', did you mean 'forward'"),
        ("dtype=float23", "unknown dtype 'float23', did you mean 'float32'"),
        ("device=gpu", r"unknown device 'gpu'.*known: auto, cpu, cuda"),
        ("baseline=sofmax", "unknown attention 'sofmax', did you mean 'softmax'"),
        ("passes=[decode]", "decode.*need a causal pattern"),
        ("pattern=all", "unknown pattern 'all'"),
    ],
)
def test_a_wrong_setting_is_named(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measured("pattern=noncausal_self", override)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_missing_device_is_reported_as_unavailable() -> None:
    with pytest.raises(Unavailable, match="device cuda"):
        measured("pattern=noncausal_self", "device=cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_everything_is_measured_on_cuda() -> None:
    run = measured("pattern=causal_self", "seq_lens=[64,128]", "device=cuda")
    assert all(m.value is not None for m in run.measurements)
    assert value(run, "forward_memory", 128) > value(run, "forward_memory", 64) > 0
