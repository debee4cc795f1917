"""Print how many Pathfinder images a core makes in a second of its own time.

Run: python scripts/compare_pathfinder.py
Cost: about half a minute on an idle core.

Beside each rate stand that of the original generator on such a core (drewlinsley/pathfinder, its
state of 2019) and the least that is asked for.
"""

import time
from typing import NamedTuple

from tasks.lra.pathfinder.generate import generate
from tasks.lra.pathfinder.settings import Settings


class Case(NamedTuple):
    """A set, how many of its images are made, and the rates to compare with."""

    resolution: int
    difficulty: str
    images: int
    original: float | None
    least: float | None


CASES = [
    Case(32, "easy", 4096, 46, 1500),
    Case(32, "intermediate", 4096, 19.6, None),
    Case(32, "hard", 2048, 5.7, 400),
    Case(64, "hard", 128, None, None),
    Case(128, "hard", 128, 0.39, 12),
    Case(256, "hard", 64, 6.2, 10),
]


def rates() -> dict[str, float]:
    """Images per second of processor time, without what is computed once."""
    found = {}
    for resolution, difficulty, images, *_ in CASES:
        settings = Settings.documented(resolution, difficulty)
        generate(0, 2, settings)
        begin = time.process_time()
        generate(1, images, settings)
        found[f"{resolution} {difficulty}"] = images / (time.process_time() - begin)
    return found


def main() -> None:
    print(f"{'set':<18} {'images/s':>9} {'original':>9} {'ratio':>6} {'least':>7}")
    for case, (name, rate) in zip(CASES, rates().items(), strict=True):
        ratio = "" if case.original is None else f"{rate / case.original:.0f}"
        verdict = "" if case.least is None else "ok" if rate >= case.least else "MISSED"
        original, least = ("" if x is None else f"{x:g}" for x in (case.original, case.least))
        print(f"{name:<18} {rate:>9.1f} {original:>9} {ratio:>6} {least:>7} {verdict}", flush=True)


if __name__ == "__main__":
    main()
