"""What a run records of its trained model, and that it is the same run without it."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor

from attentions.base import Pattern
from runners.analysis import analyses
from runners.analysis.analyses import add_analyses
from runners.records import Measurement
from runners.report.scores import quality
from runners.report.table import tidy
from runners.run import Run
from tasks.base import AttentionSlots, Task
from tasks.data import TaskData
from tests.attentions.claims import registry
from tests.runners.test_train import train

LABELS = {"task": "toy", "attention": "a", "pattern": "p", "seed": 0, "variant": ""}
LABELS |= {"attention_class": None}


class Batch(NamedTuple):
    tokens: Tensor
    positions: Tensor
    answers: Tensor
    context: Tensor | None = None


class Rows:
    """Answers that stand among the tokens of the context, if there is one."""

    def __init__(self, is_cross: bool) -> None:
        tokens = torch.arange(12).repeat(40, 1)
        context = tokens[:, :7] + 20 if is_cross else None
        positions = torch.tensor([[9, 11]]).repeat(40, 1)
        self.batch = Batch(tokens, positions, positions - (8 if not is_cross else -13), context)

    def __len__(self) -> int:
        return 40

    def __getitem__(self, rows: Tensor) -> Batch:
        return Batch._make(None if x is None else x[rows] for x in self.batch)


class Model(Task):
    patterns = frozenset(Pattern)

    def __init__(self, slots: AttentionSlots) -> None:
        super().__init__(slots)
        assert slots.pattern != "all"
        self.embed = torch.nn.Embedding(40, 16)
        self.mixers = torch.nn.ModuleList(
            slots.build(slots.pattern, embed_dim=16, num_heads=2, layer=i, max_len=16)
            for i in range(2)
        )

    def loss(self, batch: Batch) -> tuple[Tensor, int]:
        x = self.embed(batch.tokens) + 0.1 * torch.rand(1)  # a loss may draw
        context = None if batch.context is None else self.embed(batch.context)
        for mixer in self.mixers:
            x = x + mixer(x, context)
        return x.mean(), 1


def analysed(folder: Path, attention: str, pattern: Pattern, *asked: str) -> Run:
    config = {"run": {"results": str(folder), "sweep": "s", "analyses": list(asked)}}
    run = Run("id", OmegaConf.create(config), folder, labels=dict(LABELS))
    torch.manual_seed(0)
    model = Model(AttentionSlots(registry.factory(registry.load(attention)), pattern))
    data = TaskData(batch_size=40)
    data.test = Rows(pattern.is_cross)
    state = torch.get_rng_state()
    add_analyses(run, model, data)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    return run


def maps(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "s" / "analyses" / "id" / "maps.npz") as file:
        return dict(file)


def by_name(measurements: Any) -> dict[str, Measurement]:
    return {m.metric: m for m in measurements}


@pytest.mark.parametrize("pattern", [Pattern.CAUSAL_SELF, Pattern.NONCAUSAL_CROSS])
def test_each_head_of_each_place_has_its_scores_and_maps(tmp_path: Path, pattern: Pattern) -> None:
    found = by_name(analysed(tmp_path, "softmax", pattern, *analyses.ANALYSES).measurements)
    places = [f"layer{i}_head{h}" for i in (0, 1) for h in (0, 1)]
    wanted = {f"{name}_{place}" for place in places for name in (*analyses.HEADS, "retrieval")}
    if pattern.is_cross:  # no distance between two sequences, said once a place
        wanted = {name for name in wanted if "distance" not in name}
        wanted |= {"distance_layer0", "distance_layer1"}
        assert "two sequences" in found["distance_layer0"].comment
    assert set(found) == wanted
    for name, m in found.items():
        assert (m.value is None) == (name in {"distance_layer0", "distance_layer1"})
        assert (m.split, m.direction) == ("test", "")
    kept = maps(tmp_path)
    num_keys = 7 if pattern.is_cross else 12
    assert kept["layer1"].shape == (analyses.NUM_KEPT, 2, 12, num_keys)
    np.testing.assert_allclose(kept["layer1"].sum(-1), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(kept["answers"][0], [22, 24] if pattern.is_cross else [1, 3])
    with Image.open(tmp_path / "s" / "analyses" / "id" / "maps.png") as image:
        assert min(image.size) > 400


def test_what_has_no_map_says_why(tmp_path: Path) -> None:
    run = analysed(tmp_path, "s4d", Pattern.CAUSAL_SELF, "heads", "retrieval", "maps")
    found = by_name(run.measurements)
    assert found["entropy_layer0"].value is found["retrieval_layer1"].value is None
    assert "no attention weights; it mixes by neither q, k and v" in found["sink_layer0"].comment
    assert not (tmp_path / "s").exists()


def test_large_maps_are_read_of_fewer_rows_and_too_large_ones_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(analyses, "MANY_WEIGHTS", 3 * 2 * 12 * 12)
    analysed(tmp_path, "softmax", Pattern.CAUSAL_SELF, "maps")
    assert maps(tmp_path)["layer0"].shape[0] == 3
    monkeypatch.setattr(analyses, "MOST_WEIGHTS", 2 * 12 * 12 - 1)
    (m, _) = analysed(tmp_path, "softmax", Pattern.CAUSAL_SELF, "retrieval").measurements
    assert m.value is None
    assert "a map of 288 weights is larger" in m.comment


def test_analyses_are_no_other_run_and_no_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["trainer.max_epochs=1"]
    _, plain = train(monkeypatch, tmp_path / "plain", *settings)
    _, record = train(
        monkeypatch, tmp_path / "analysed", *settings, "run.analyses=[heads,retrieval]"
    )
    assert record.run_id == plain.run_id
    numbers = [
        {m.metric: m.value for m in each.measurements if m.split} for each in (plain, record)
    ]
    assert numbers[0]["mse"] == numbers[1]["mse"]
    found = by_name(record.measurements)
    assert found["entropy_layer0_head1"].value is not None
    assert "do not say where which answers are read" in found["retrieval_layer0"].comment
    assert set(quality(tidy([record]))["metric"]) == {"mse"}


def test_an_unknown_analysis_is_told_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, record = train(monkeypatch, tmp_path, "run.analyses=[haeds]")
    assert code == 1
    assert record.error.startswith("unknown analysis 'haeds', did you mean 'heads'?")
    assert not record.measurements
