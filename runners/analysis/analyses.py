"""The analyses of a trained model that `run.analyses` asks for, on the first of its test rows.

heads: entropy, distance and sinks of each head. retrieval: the retrieval-head score of each.
maps: the weights on a few rows, in `<results>/<sweep>/analyses/<run_id>/`.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor

from attentions.base import Attention
from runners.analysis import scores
from runners.analysis.drawing import draw
from runners.analysis.maps import NoMap, Pass, attention_map, recorded
from runners.files import whole
from runners.identity import run_name
from runners.mistakes import unknown
from runners.run import Run
from tasks.base import Task
from tasks.data import TaskData

ANALYSES = ("heads", "retrieval", "maps")
NUM_EXAMPLES, NUM_KEPT = 32, 4
"""Rows of the first test batch that are analysed, and of which maps are kept: at most so many."""
MANY_WEIGHTS, MOST_WEIGHTS = 2**24, 2**28
"""How many weights of one place are held, but for those of a single row, and of that."""
HEADS = ("entropy", "distance", "first_key", "sink")
UNITS = {"distance": "tokens"}
Found = tuple[Tensor | None, str]
"""One value per head, or None and why."""


def check(asked: Collection[str]) -> None:
    """Raise ValueError for an analysis that there is not."""
    for name in asked:
        if name not in ANALYSES:
            raise ValueError(unknown("analysis", str(name), ANALYSES))


def add_analyses(run: Run, model: Task, data: TaskData) -> None:
    """Add the analyses that are asked for, of the model as it is now.

    Places are `layer0`, `layer1` ... in the order in which the backbone builds them. What cannot
    be had is a measurement without a value, with the reason.
    """
    asked = run.config.run.get("analyses") or ()
    if not asked:
        return
    with undisturbed(model):
        batch, passes = _first_rows(model, data)
        kept: dict[str, np.ndarray] = {}
        for i, (attention, found) in enumerate(zip(model.slots.under_test, passes, strict=True)):
            place = f"layer{i}"
            try:
                weights, comment = _weights(attention, found)
            except NoMap as reason:
                results = {name: (None, str(reason)) for name in _names(asked)}
                _add(run, place, results, "no attention weights")
                continue
            results = {}
            if "heads" in asked:
                results |= _of_heads(attention, found, weights)
            if "retrieval" in asked:
                results["retrieval"] = _retrieval(attention, weights, batch)
            _add(run, place, results, comment)
            if "maps" in asked:
                rows = max(1, min(NUM_KEPT, MANY_WEIGHTS // weights[0].numel()))
                kept[place] = weights[:rows].float().cpu().numpy()
    if kept:
        folder = Path(run.config.run.results) / run.config.run.sweep / "analyses" / run.run_id
        _keep(folder, kept, batch, run_name(run.labels), model.slots.under_test)


@contextmanager
def undisturbed(model: Task) -> Iterator[None]:
    """Evaluation without gradients, after which mode and random numbers are as before."""
    was_training = model.training
    model.eval()
    try:
        with torch.random.fork_rng(), torch.no_grad():
            yield
    finally:
        model.train(was_training)


def _first_rows(model: Task, data: TaskData) -> tuple[Any, list[Pass]]:
    """The first test rows, and what each place does on them; fewer rows where maps are large."""
    rows: Tensor = next(iter(data.test_dataloader().sampler))  # of the first batch
    rows = rows[:NUM_EXAMPLES]
    device = next(model.parameters()).device
    while True:
        batch = move_data_to_device(data.test[rows], device)
        places = model.slots.under_test
        with recorded(places) as passes:
            model.loss(batch)
        sizes = [_map_size(place, found) for place, found in zip(places, passes, strict=True)]
        fitting = max(1, MANY_WEIGHTS // max(1, *sizes))
        if len(rows) <= fitting:
            return batch, passes
        rows = rows[:fitting]


def _map_size(place: Attention, found: Pass) -> int:
    return place.num_heads * found.shape[1] * found.shape[2]


def _weights(place: Attention, found: Pass) -> tuple[Tensor, str]:
    size = _map_size(place, found)
    if size > MOST_WEIGHTS:
        raise NoMap(f"a map of {size} weights is larger than the {MOST_WEIGHTS} that are held")
    weights, of = attention_map(found)
    comments = [] if of == "mix" else [f"of its {of}, without the norms and gates around"]
    comments += [f"of its first use of {found.num_uses}"] if found.num_uses > 1 else []
    return weights, "; ".join(comments)


def _names(asked: Collection[str]) -> list[str]:
    return [*(HEADS if "heads" in asked else ()), *(["retrieval"] if "retrieval" in asked else [])]


def _of_heads(place: Attention, found: Pass, weights: Tensor) -> dict[str, Found]:
    share = scores.shares(weights)
    counts = scores.counted(weights, found.query_padding_mask)
    results: dict[str, Found] = {name: (getattr(scores, name)(share, counts), "") for name in HEADS}
    if place.pattern.is_cross:
        results["distance"] = None, "query and key are places in two sequences"
    return results


def _retrieval(place: Attention, weights: Tensor, batch: Any) -> Found:
    positions, answers, tokens = _answers(place, batch)
    if positions is None or answers is None or tokens is None:
        return None, "the batches of the task do not say where which answers are read"
    if tokens.shape[1] != weights.shape[3] or int(positions.max()) >= weights.shape[2]:
        return None, "its keys are not the tokens of the task"
    return scores.retrieval(weights, positions, answers, tokens), ""


def _answers(place: Attention, batch: Any) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Where answers are read, the answers, and the tokens that are keys; see `Answering`."""
    source = "context" if place.pattern.is_cross else "tokens"
    positions, answers, tokens = (
        getattr(batch, name, None) for name in ("positions", "answers", source)
    )
    return positions, answers, tokens


def _add(run: Run, place: str, results: Mapping[str, Found], comment: str) -> None:
    for name, (values, reason) in results.items():
        why = "; ".join(part for part in (comment, reason) if part)
        if values is None:
            run.add(f"{name}_{place}", None, unit=UNITS.get(name, ""), split="test", comment=why)
            continue
        for head, value in enumerate(values.tolist()):
            is_known = value == value
            run.add(
                f"{name}_{place}_head{head}",
                value if is_known else None,
                unit=UNITS.get(name, ""),
                split="test",
                comment=why if is_known else "; ".join(filter(None, [why, "nothing to count"])),
            )


def _keep(
    folder: Path,
    maps: Mapping[str, np.ndarray],
    batch: Any,
    title: str,
    places: list[Attention],
) -> None:
    """Write `maps.npz`, with the tokens of the rows where there are any, and `maps.png`."""
    rows = max(len(each) for each in maps.values())
    parts = {
        name: getattr(batch, name, None) for name in ("tokens", "context", "positions", "answers")
    }
    given = {name: x[:rows].cpu().numpy() for name, x in parts.items() if isinstance(x, Tensor)}
    with whole(folder / "maps.npz") as file:
        np.savez_compressed(file.buffer, allow_pickle=False, **maps, **given)
    marks = []
    positions, answers, tokens = _answers(places[0], batch)
    if positions is not None and answers is not None and tokens is not None:
        for position, answer in zip(positions[0].tolist(), answers[0].tolist(), strict=True):
            marks += [(position, key) for key in (tokens[0] == answer).nonzero()[:, 0].tolist()]
    draw(folder / "maps.png", [(name, each[0]) for name, each in maps.items()], title, marks)
