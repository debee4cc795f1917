"""Examples per second of one core: the generators of MQAR and MAD, everything included.

Processor time, the best of several; the machine's other work still costs caches and clock.
Run: python scripts/compare_mqar.py
"""

import time
from collections.abc import Callable

from tasks.diagnostics.mad.generate import Settings as MadSettings
from tasks.diagnostics.mad.generate import generate as generate_mad
from tasks.diagnostics.mqar.generate import Settings, generate

SIZES = ((64, 4), (128, 8), (256, 16), (256, 64), (512, 64), (1024, 256))
MAD = (
    MadSettings("in_context_recall"),
    MadSettings("noisy_recall", 32, 128, 16, 0.2),
    MadSettings("fuzzy_recall"),
    MadSettings("selective_copying", 16, 256),
    MadSettings("compression", 16, 32),
    MadSettings("memorization", 256, 32),
)


def rate(make: Callable[[], object], count: int, times: int = 5) -> float:
    """Examples per second of processor time."""
    make()
    spent = []
    for _ in range(times):
        begin = time.process_time()
        make()
        spent.append(time.process_time() - begin)
    return count / min(spent)


def main() -> None:
    """Print a row for each setting."""
    for length, pairs in SIZES:
        for filler in (False, True):
            settings, count = Settings(length, pairs, filler=filler), 2**21 // length
            told = rate(lambda s=settings, n=count: generate(0, n, s), count)
            blanks = "random" if filler else "blank"
            print(f"mqar L {length:5} N {pairs:4} {blanks:7} {told:12,.0f} /s")
    for settings in MAD:
        told = rate(lambda s=settings: generate_mad(0, 12_800, s), 12_800, times=2)
        print(f"mad {settings.kind:24} {told:12,.0f} /s")


if __name__ == "__main__":
    main()
