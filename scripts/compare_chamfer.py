"""Chamfer distances of two clouds of 16,384 points beside `torch.cdist`, chunked by hand.

Run: python scripts/compare_chamfer.py
Cost: half a minute of one core.

Processor time of one thread, forward alone and with gradients, the best of several turns; and the
memory that each takes beyond what the process had, each in a process of its own.
"""

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from tasks.metrics.chamfer import chamfer_l1

NUM_POINTS, TURNS = 16_384, 2
MOST_RATIO, MOST_MIB = 1.0, 300.0


def ours(points: Tensor, target: Tensor) -> Tensor:
    """The project's."""
    return chamfer_l1(points[None], target[None])[0]


def by_hand(points: Tensor, target: Tensor, rows: int) -> Tensor:
    """Both directions from the same distances, `rows` points at a time, with their gradients."""
    back = torch.full((len(target),), torch.inf)
    there = []
    for some in points.split(rows):
        table = torch.cdist(some, target)
        there.append(table.amin(dim=1))
        back = torch.minimum(back, table.amin(dim=0))
    return (torch.cat(there).mean() + back.mean()) / 2


def by_index(points: Tensor, target: Tensor, rows: int) -> Tensor:
    """As `by_hand`, but keeping only which point is nearest: distances are computed again."""
    with torch.no_grad():
        least = torch.full((len(target),), torch.inf)
        back, there = torch.zeros(len(target), dtype=torch.int64), []
        for first in range(0, len(points), rows):
            table = torch.cdist(points[first : first + rows], target)
            there.append(table.argmin(dim=1))
            found, place = table.min(dim=0)
            back = torch.where(found < least, place + first, back)
            least = torch.minimum(least, found)
    near = (points - target[torch.cat(there)]).norm(dim=-1).mean()
    return (near + (target - points[back]).norm(dim=-1).mean()) / 2


RULES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ours": ours,
    "cdist, 128 rows, values": lambda p, t: by_hand(p, t, 128),
    "cdist, 1024 rows, values": lambda p, t: by_hand(p, t, 1024),
    "cdist, 128 rows, indices": lambda p, t: by_index(p, t, 128),
    "cdist, 1024 rows, indices": lambda p, t: by_index(p, t, 1024),
}


def measure(name: str, with_gradients: bool) -> tuple[float, float, float]:
    """Seconds, MiB at the peak beyond the beginning, and the distance."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    points, target = (torch.rand(NUM_POINTS, 3, generator=generator) for _ in range(2))
    points.requires_grad_(with_gradients)
    RULES[name](points[:64], target[:64]).detach()
    begin_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, value = [], points.new_zeros(())
    for _ in range(TURNS):
        begin = time.process_time()
        value = RULES[name](points, target)
        if with_gradients:
            value.backward()
        seconds.append(time.process_time() - begin)
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - begin_kib
    return min(seconds), peak_kib / 1024, value.item()


def main() -> None:
    """Print a row for each, and fail where ours is over what is allowed."""
    is_over = False
    for with_gradients in (False, True):
        print("with gradients" if with_gradients else "forward")
        # By values, gradients would need every table at once.
        names = [name for name in RULES if not (with_gradients and "values" in name)]
        found = {}
        for name in names:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                found[name] = pool.apply(measure, (name, with_gradients))
        own_s, own_mib, _ = found["ours"]
        for name, (seconds, mib, value) in found.items():
            ratio = own_s / seconds
            print(
                f"  {name:26} {seconds:6.2f} s, ours/it {ratio:5.2f}  {mib:6.1f} MiB  {value:.7f}"
            )
        best = min(seconds for name, (seconds, _, _) in found.items() if name != "ours")
        is_over |= own_s > MOST_RATIO * best or own_mib > MOST_MIB
    if is_over:
        sys.exit(f"ours is over {MOST_RATIO} of the best or over {MOST_MIB} MiB")


if __name__ == "__main__":
    main()
