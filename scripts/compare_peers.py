"""Time and peak memory of each mechanism over those of a public PyTorch implementation, in one run.

Run: python scripts/compare_peers.py [NAME ...]     after pip install -e '.[peers]'
Cost: about fifteen minutes on an idle core; a name takes half a minute.

Forward and backward on one thread, float32, batch 1, 4 heads of 64, timed in turns, so that a
machine that slows down slows both. Whole layers are compared where the peer is one, else the mixing
alone; a peer that is quadratic, or loops over positions, stops at 4096. The last columns are ours:
the exponent of the length in time and memory from 4096 to 16384.
"""

import ctypes
import importlib
import math
import platform
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attentions import registry
from attentions.base import MultiHeadAttention, Pattern
from attentions.functional.delta_rule import delta_rule
from attentions.functional.gated_scan import gated_scan
from attentions.functional.scan import causal_scan
from runners.measure import Call, peak_memory, time_in_turns

NUM_HEADS, HEAD_DIM = 4, 64
EMBED_DIM = NUM_HEADS * HEAD_DIM
LENGTHS = (1024, 4096, 16384)
SHORT = LENGTHS[:2]
NS, CS = Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_SELF
CPU = torch.device("cpu")

Function = Callable[..., Any]


class Sides(NamedTuple):
    """Two functions, modules or not, of the same inputs.

    Attributes:
        owner: The module behind `theirs`, where that only calls one; its weights are trained too.
    """

    ours: Function
    theirs: Function
    inputs: list[Tensor]
    owner: nn.Module | None = None


class Pairing(NamedTuple):
    """One row: what `build` makes is measured at the lengths."""

    name: str
    pattern: Pattern
    peer: str
    build: Callable[[Pattern, int], Sides]
    lengths: tuple[int, ...]


PAIRINGS: list[Pairing] = []


def pairing(
    name: str, patterns: Sequence[Pattern], peer: str, lengths: tuple[int, ...] = LENGTHS
) -> Callable[[Callable[[Pattern, int], Sides]], Callable[[Pattern, int], Sides]]:
    """List a function that builds both sides for a pattern and a length."""

    def add(build: Callable[[Pattern, int], Sides]) -> Callable[[Pattern, int], Sides]:
        PAIRINGS.extend(Pairing(name, pattern, peer, build, lengths) for pattern in patterns)
        return build

    return add


def package(name: str) -> Any:
    """Import a peer without its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


def ours(name: str, pattern: Pattern, **settings: Any) -> MultiHeadAttention:
    config = registry.load(name)
    config.update(settings)
    attention = registry.factory(config)(EMBED_DIM, NUM_HEADS, pattern)
    assert isinstance(attention, MultiHeadAttention)
    return attention


def sequence(length: int) -> list[Tensor]:
    return [torch.randn(1, length, EMBED_DIM)]


def heads(length: int, count: int = 3) -> list[Tensor]:
    return [torch.randn(1, NUM_HEADS, length, HEAD_DIM) for _ in range(count)]


def by_position(function: Function) -> Function:
    """For functions of (batch, length, heads, width)."""

    def transposed(*inputs: Tensor) -> Any:
        return function(*(x.transpose(1, 2) for x in inputs))

    return transposed


@pairing("softmax", [NS], "torch MultiheadAttention")
def _(pattern: Pattern, length: int) -> Sides:
    theirs = nn.MultiheadAttention(EMBED_DIM, NUM_HEADS, batch_first=True)
    return Sides(
        ours("softmax", pattern),
        lambda x: theirs(x, x, x, need_weights=False),
        sequence(length),
        theirs,
    )


@pairing("nystrom", [NS], "transformers")
def _(pattern: Pattern, length: int) -> Sides:
    module = package("transformers.models.nystromformer.modeling_nystromformer")
    config = module.NystromformerConfig(
        hidden_size=EMBED_DIM,
        num_attention_heads=NUM_HEADS,
        num_landmarks=64,
        segment_means_seq_len=length,
        conv_kernel_size=33,
        attention_probs_dropout_prob=0.0,
    )
    theirs = module.NystromformerSelfAttention(config)
    return Sides(
        ours("nystrom", pattern, num_landmarks=64, conv_kernel=33), theirs, sequence(length)
    )


@pairing("nystrom", [NS], "nystrom-attention")
def _(pattern: Pattern, length: int) -> Sides:
    theirs = package("nystrom_attention").NystromAttention(
        EMBED_DIM, dim_head=HEAD_DIM, heads=NUM_HEADS, num_landmarks=64
    )
    return Sides(
        ours("nystrom", pattern, num_landmarks=64, conv_kernel=33), theirs, sequence(length)
    )


@pairing("linformer", [NS], "linformer")
def _(pattern: Pattern, length: int) -> Sides:
    theirs = package("linformer").LinformerSelfAttention(
        EMBED_DIM, length, k=128, heads=NUM_HEADS, dim_head=HEAD_DIM
    )
    settings = {"proj_len": 128, "max_len": length, "share_key_value": False}
    return Sides(ours("linformer", pattern, **settings), theirs, sequence(length))


@pairing("performer", [CS], "performer-pytorch", SHORT)
@pairing("performer", [NS], "performer-pytorch")
def _(pattern: Pattern, length: int) -> Sides:
    module = package("performer_pytorch.performer_pytorch")
    attention = ours("performer", pattern, num_features=128, redraw_every=None)
    theirs = module.FastAttention(HEAD_DIM, nb_features=128)
    if pattern.is_causal:  # as its constructor has it where no CUDA kernel is installed
        theirs.causal, theirs.causal_linear_fn = True, module.causal_linear_attention_noncuda
    return Sides(attention.mix, theirs, heads(length))


@pairing("linear_elu", [CS], "fla naive_chunk_linear_attn")
def _(pattern: Pattern, length: int) -> Sides:
    naive = package("fla.ops.linear_attn.naive").naive_chunk_linear_attn

    def theirs(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return naive(F.elu(q) + 1, F.elu(k) + 1, v, normalize=True)

    return Sides(ours("linear_elu", pattern).mix, by_position(theirs), heads(length))


@pairing("abc", [CS], "fla naive_cumsum_abc", SHORT)
def _(pattern: Pattern, length: int) -> Sides:
    naive = package("fla.ops.abc.naive").naive_cumsum_abc
    control = torch.randn(HEAD_DIM, 16)
    attention = ours("abc", pattern, num_slots=16)
    return Sides(attention.mix, lambda q, k, v: naive(q, k, v, k @ control), heads(length))


def fixed_decay(length: int) -> Tensor:
    rates = torch.log1p(-torch.exp2(-5.0 - torch.arange(NUM_HEADS)))
    return rates[None, :, None].expand(1, -1, length)


@pairing("retention, lightning", [CS], "fla naive_chunk_simple_gla")
def _(pattern: Pattern, length: int) -> Sides:
    naive = package("fla.ops.simple_gla.naive").naive_chunk_simple_gla
    g = fixed_decay(length)
    return Sides(
        lambda q, k, v: causal_scan(q, k, v, log_decay=g),
        by_position(lambda q, k, v: naive(q, k, v, g.mT)),
        heads(length),
    )


@pairing("gla", [CS], "fla naive_recurrent_gla", SHORT)
def _(pattern: Pattern, length: int) -> Sides:
    naive = package("fla.ops.gla.naive").naive_recurrent_gla
    *qkv, gate = heads(length, 4)
    return Sides(gated_scan, by_position(naive), [*qkv, F.logsigmoid(gate) / 16])


@pairing("deltanet", [CS], "fla delta_rule_chunkwise", SHORT)
def _(pattern: Pattern, length: int) -> Sides:
    naive = package("fla.ops.delta_rule.naive").delta_rule_chunkwise
    q, k, v = heads(length)
    beta = torch.rand(1, NUM_HEADS, length)
    return Sides(delta_rule, naive, [q, F.normalize(k, dim=-1), v, beta])


@pairing("gated_deltanet", [CS], "fla naive_chunk_gated_delta_rule", SHORT)
def _(pattern: Pattern, length: int) -> Sides:
    naive = package("fla.ops.gated_delta_rule.naive").naive_chunk_gated_delta_rule
    q, k, v = heads(length)
    g, beta = fixed_decay(length), torch.rand(1, NUM_HEADS, length)
    return Sides(
        lambda q, k, v, beta: delta_rule(q, k, v, beta, g),
        by_position(lambda q, k, v, beta: naive(q, k, v, g.mT, beta)),
        [q, F.normalize(k, dim=-1), v, beta],
    )


@pairing("gated_deltanet", [CS], "transformers (Qwen3-Next)")
def _(pattern: Pattern, length: int) -> Sides:
    module = package("transformers.models.qwen3_next.modeling_qwen3_next")
    rule = module.torch_chunk_gated_delta_rule
    rule = getattr(rule, "__wrapped__", rule)  # where fla is installed it takes fla's kernels
    q, k, v = heads(length)
    g, beta = fixed_decay(length), torch.rand(1, NUM_HEADS, length)
    return Sides(
        lambda q, k, v, beta: delta_rule(q, k, v, beta, g),
        by_position(lambda q, k, v, beta: rule(q, k, v, g.mT, beta)),
        [q, F.normalize(k, dim=-1), v, beta],
    )


@pairing("local_window", [NS, CS], "local-attention")
def _(pattern: Pattern, length: int) -> Sides:
    theirs = package("local_attention").LocalAttention(
        128, causal=pattern.is_causal, exact_windowsize=True
    )
    return Sides(ours("local_window", pattern, window=128).mix, theirs, heads(length))


@pairing("block_local", [NS, CS], "local-attention")
def _(pattern: Pattern, length: int) -> Sides:
    theirs = package("local_attention").LocalAttention(
        128, causal=pattern.is_causal, look_backward=0, look_forward=0
    )
    return Sides(ours("block_local", pattern, block_size=128).mix, theirs, heads(length))


@pairing("longformer", [NS], "transformers")
def _(pattern: Pattern, length: int) -> Sides:
    module = package("transformers.models.longformer.modeling_longformer")
    config = module.LongformerConfig(
        hidden_size=EMBED_DIM,
        num_attention_heads=NUM_HEADS,
        attention_window=[256],
        attention_probs_dropout_prob=0.0,
    )
    theirs = module.LongformerSelfAttention(config, layer_id=0)
    is_global = torch.arange(length)[None] < 1
    mask = 10000.0 * is_global.float()
    return Sides(
        ours("longformer", pattern, window=256, num_global=1),
        lambda x: theirs(
            x,
            attention_mask=mask,
            is_index_masked=mask < 0,
            is_index_global_attn=is_global,
            is_global_attn=True,
        ),
        sequence(length),
        theirs,
    )


@pairing("bigbird", [NS], "transformers")
def _(pattern: Pattern, length: int) -> Sides:
    module = package("transformers.models.big_bird.modeling_big_bird")
    config = module.BigBirdConfig(
        hidden_size=EMBED_DIM,
        num_attention_heads=NUM_HEADS,
        block_size=64,
        num_random_blocks=3,
        max_position_embeddings=length,
    )
    theirs = module.BigBirdBlockSparseAttention(config, seed=0).eval()
    masks = module.BigBirdModel.create_masks_for_block_sparse_attn(torch.ones(1, length), 64)
    blocked, band, of_query, of_key = masks
    return Sides(
        ours("bigbird", pattern),
        lambda x: theirs(x, band, of_query, of_key, blocked, blocked),
        sequence(length),
        theirs,
    )


@pairing("probsparse", [NS], "transformers (Informer)")
def _(pattern: Pattern, length: int) -> Sides:
    module = package("transformers.models.informer.modeling_informer")
    theirs = module.InformerProbSparseAttention(EMBED_DIM, NUM_HEADS, sampling_factor=5)
    return Sides(ours("probsparse", pattern), theirs, sequence(length))


@pairing("reformer", [NS, CS], "transformers")
def _(pattern: Pattern, length: int) -> Sides:
    module = package("transformers.models.reformer.modeling_reformer")
    attention = ours("reformer", pattern, chunk_size=64, num_rounds=4, num_buckets=length // 32)
    config = module.ReformerConfig(
        attention_head_size=HEAD_DIM,
        num_attention_heads=NUM_HEADS,
        hidden_size=EMBED_DIM,
        attn_layers=["lsh"],
        is_decoder=pattern.is_causal,
        lsh_attn_chunk_length=64,
        num_hashes=4,
        num_buckets=attention.factors,
        lsh_attention_probs_dropout_prob=0.0,
    )
    theirs = module.LSHSelfAttention(config, layer_idx=0)
    return Sides(attention, lambda x: theirs(x, num_hashes=4), sequence(length), theirs)


@pairing("reformer", [NS, CS], "reformer-pytorch")
def _(pattern: Pattern, length: int) -> Sides:
    theirs = package("reformer_pytorch").LSHSelfAttention(
        EMBED_DIM, heads=NUM_HEADS, bucket_size=64, n_hashes=4, causal=pattern.is_causal
    )
    attention = ours("reformer", pattern, chunk_size=64, num_rounds=4, num_buckets=length // 64)
    return Sides(attention, theirs, sequence(length))


@pairing("sinkhorn", [NS], "sinkhorn-transformer")
def _(pattern: Pattern, length: int) -> Sides:
    module = package("sinkhorn_transformer.sinkhorn_transformer")
    theirs = module.SinkhornAttention(64, EMBED_DIM, HEAD_DIM, NUM_HEADS, length)
    attention = ours("sinkhorn", pattern, block_size=64, max_len=length)
    return Sides(attention.mix, theirs, heads(length))


@pairing("routing", [NS], "routing-transformer")
def _(pattern: Pattern, length: int) -> Sides:
    clusters = math.isqrt(length)
    module = package("routing_transformer.routing_transformer")
    theirs = module.KmeansAttention(clusters, length // clusters, NUM_HEADS, HEAD_DIM)
    attention = ours("routing", pattern, num_clusters=clusters, window=length // clusters)
    return Sides(attention.mix, theirs, heads(length))


@pairing("based", [CS], "fla naive_chunk_based")
def _(pattern: Pattern, length: int) -> Sides:
    naive = package("fla.ops.based.naive").naive_chunk_based
    q, k = (torch.randn(1, NUM_HEADS, length, 16) for _ in range(2))
    return Sides(ours("based", pattern).mix, naive, [q, k, heads(length, 1)[0]])


@pairing("mamba2", [CS], "transformers")
def _(pattern: Pattern, length: int) -> Sides:
    module = package("transformers.models.mamba2.modeling_mamba2")
    config = module.Mamba2Config(
        hidden_size=EMBED_DIM,
        num_heads=2 * NUM_HEADS,
        head_dim=HEAD_DIM,
        state_size=128,
        n_groups=1,
        num_hidden_layers=1,
    )
    theirs = module.Mamba2Mixer(config, layer_idx=0)
    factory = registry.factory(registry.load("mamba2"))
    return Sides(factory(EMBED_DIM, 2 * NUM_HEADS, pattern), theirs, sequence(length))


def forward_backward(function: Function, inputs: list[Tensor], owner: nn.Module | None) -> Call:
    leaves = [x.detach().requires_grad_() for x in inputs]
    module = owner or getattr(function, "__self__", function)  # of a method such as mix
    weights = list(module.parameters()) if isinstance(module, nn.Module) else []

    def run() -> object:
        out = function(*leaves)
        out = out[0] if isinstance(out, tuple | list) else getattr(out, "hidden_states", out)
        return torch.autograd.grad(out.sum(), [*leaves, *weights], allow_unused=True)

    run()
    return Call(run)


class Costs(NamedTuple):
    """Of both sides at one length: the fastest call in ms, the peak in bytes."""

    times: tuple[float, float]
    peaks: tuple[int, int]


def costs(build: Callable[[Pattern, int], Sides], pattern: Pattern, length: int) -> Costs:
    torch.manual_seed(0)
    sides = build(pattern, length)
    calls = [
        forward_backward(sides.ours, sides.inputs, None),
        forward_backward(sides.theirs, sides.inputs, sides.owner),
    ]
    first, second = time_in_turns(calls, min_run_time_s=2.0, min_calls=5)
    # What other processes take away only adds: the fastest of each.
    peaks = (peak_memory(calls[0], CPU), peak_memory(calls[1], CPU))
    return Costs((min(first), min(second)), peaks)


def row(pair: Pairing) -> str:
    measured = {n: costs(pair.build, pair.pattern, n) for n in pair.lengths}
    times = [f"{c.times[0] / c.times[1]:.2f}" for c in measured.values()]
    peaks = [f"{c.peaks[0] / c.peaks[1]:.2f}" for c in measured.values()]
    gap = ["–"] * (len(LENGTHS) - len(measured))
    exponents = ["–", "–"]
    if pair.lengths == LENGTHS:
        short, long = measured[LENGTHS[1]], measured[LENGTHS[2]]
        exponents = [
            f"{math.log2(long.times[0] / short.times[0]) / 2:.2f}",
            f"{math.log2(long.peaks[0] / short.peaks[0]) / 2:.2f}",
        ]
    cells = [pair.name, pair.pattern.short, pair.peer, *times, *gap, *peaks, *gap, *exponents]
    return "| " + " | ".join(cells) + " |"


def keep_freed_memory(keep: bool) -> None:
    """Let glibc reuse what was freed, as the allocator for CUDA does.

    It gives blocks of over 32 MB back to the system, which clears them anew in every call: beside
    the arithmetic, the exponents of the length would tell where that begins. Not for peers that
    loop over positions: their many small tensors leave holes that grow to tens of GB.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0 if keep else 65536)  # M_MMAP_MAX: how many blocks by themselves
        mallopt(-1, 2**31 - 1 if keep else 2**17)  # M_TRIM_THRESHOLD


def main() -> None:
    torch.set_num_threads(1)
    wanted = sys.argv[1:]
    print("| mechanism | pattern | peer |", end="")
    print("".join(f" time {n} |" for n in LENGTHS), end="")
    print("".join(f" memory {n} |" for n in LENGTHS), "time ~ n^ | memory ~ n^ |")
    print("| --- | --- | --- |" + " ---: |" * (2 * len(LENGTHS) + 2), flush=True)
    for pair in PAIRINGS:
        if not wanted or pair.name in wanted:
            keep_freed_memory(pair.lengths == LENGTHS)
            print(row(pair), flush=True)


if __name__ == "__main__":
    main()
