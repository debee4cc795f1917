"""Print how many rows a second of one core each generator makes, beside what the original makes.

Run: python scripts/compare_generators.py
Cost: about half a minute on an idle core.

Processor time of one thread, the best of several turns: what other processes take away only adds.
The rates of the originals were measured with their own code on a server core (one of 2020 or
later); on another machine the ratio is what holds.
"""

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tasks.lra.listops import generate as listops
from tasks.lra.retrieval import generate as retrieval
from tasks.lra.text_classification import generate as reviews
from tasks.shards import SHARD_ROWS

TURNS = 5


class Generator(NamedTuple):
    """What is timed.

    Attributes:
        name: In the table.
        draw: Makes a number of rows from a seed.
        num_rows: In a turn.
        original: Rows a second of the original's code, if there is any.
        least: Rows a second that it must make.
    """

    name: str
    draw: Callable[[int, int], object]
    num_rows: int
    original: float | None = None
    least: float | None = None


def generators() -> Iterator[Generator]:
    """Every generator of the table."""
    paper = listops.Settings()
    yield Generator(
        "ListOps, 500 to 2,000 tokens",
        lambda seed, count: listops.generate(seed, count, paper),
        4 * SHARD_ROWS,
        original=280,
        least=10_000,
    )
    longer = listops.Settings(min_len=7000, max_len=8180, max_depth=15, max_args=9)
    yield Generator(
        "ListOps, 7,000 to 8,180 tokens",
        lambda seed, count: listops.generate(seed, count, longer),
        SHARD_ROWS // 4,
    )
    short = listops.Settings(min_len=10, max_len=50, part="train")
    yield Generator(
        "ListOps, 10 to 50 tokens, of the training part",
        lambda seed, count: listops.generate(seed, count, short),
        8 * SHARD_ROWS,
    )
    review = reviews.Settings(max_len=48)
    yield Generator(
        "reviews-synthetic, 48 bytes",
        lambda seed, count: reviews.generate(seed, count, review),
        8 * SHARD_ROWS,
    )
    pair = retrieval.Settings(max_len=32)
    yield Generator(
        "pairs-synthetic, 2 x 32 bytes",
        lambda seed, count: retrieval.generate(seed, count, pair),
        8 * SHARD_ROWS,
    )


def rate(generator: Generator) -> float:
    """Rows a second of processor time, in the best turn."""
    generator.draw(0, generator.num_rows // 8)  # what is computed once, and pages of memory
    best = 0.0
    for turn in range(TURNS):
        begin = time.process_time()
        generator.draw(turn, generator.num_rows)
        best = max(best, generator.num_rows / (time.process_time() - begin))
    return best


def main() -> None:
    print(f"{'generator':<48} {'rows/s':>10} {'original':>9} {'ratio':>7}  {'at least':>9}")
    for generator in generators():
        found = rate(generator)
        original, ratio, least = "", "", ""
        if generator.original is not None:
            original, ratio = f"{generator.original:,.0f}", f"{found / generator.original:.0f}x"
        if generator.least is not None:
            verdict = "ok" if found >= generator.least else "MISSED"
            least = f"{generator.least:,.0f} {verdict}"
        print(
            f"{generator.name:<48} {found:>10,.0f} {original:>9} {ratio:>7}  {least:>9}", flush=True
        )


if __name__ == "__main__":
    main()
