"""Ours beside what was published on Long Range Arena, MQAR and MAD."""

import math
from typing import Any

import pandas as pd
import pytest
from hydra.utils import instantiate

from runners.records import Measurement, Record, Status
from runners.report.published import beside, lra, mad, mqar
from runners.report.render import Table
from runners.report.scores import quality
from tests.runners.report.made import rows, train
from tests.tasks.building import settings

LRA: dict[str, Any] = {"suite": "lra", "backbone": "LRA", "pattern": "noncausal_self"}
FIVE = (
    ("listops", "ListOps"),
    ("text_classification", "IMDb"),
    ("retrieval", "AAN"),
    ("image_classification", "CIFAR-10-grey"),
    ("pathfinder", "Pathfinder-32-hard"),
)


def arena(attention: str, *values: float, datasets=FIVE, seed: int = 0, **fields) -> list[Record]:
    return [
        train(attention, {"accuracy": value}, task=task, dataset=dataset, seed=seed,
              data={"set": dataset}, **LRA, **fields)
        for (task, dataset), value in zip(datasets, values, strict=True)
    ]  # fmt: skip


def ours(table: Table | None) -> dict[str, dict[str, str]]:
    assert table is not None
    told = [dict(zip(table.header, line, strict=True)) for line in table.lines]
    return {line["attention"]: line for line in told if line["source"] == "ours"}


def compared(*records: Record) -> Table | None:
    return lra.comparison(quality(rows(list(records))))


@pytest.mark.parametrize("name", ["lra_accuracy", "lra_efficiency", "mqar", "synthetics_other"])
def test_every_published_number_has_a_source(name: str) -> None:
    assert (beside.read_csv(f"{name}.csv")["source"].str.len() > 0).all()


WHOLE = {
    "listops": (96_000, 2_000),
    "text_classification": (25_000, 25_000),
    "retrieval": (147_086, 17_437),
    "image_classification": (45_000, 10_000),
}


@pytest.mark.parametrize(("task", "dataset"), [*FIVE, ("pathfinder", "Path-X")])
def test_data_sets_go_by_the_names_that_their_data_give_them(task: str, dataset: str) -> None:
    preset = "pathx" if dataset == "Path-X" else "paper"
    few = {"source": "generated", "num_train": 2, "num_eval": 2}
    data = instantiate({**settings(f"{task}/{preset}")["data"], **few})
    if task in WHOLE:
        data.source, data.is_whole = "a release", True
        data.train, data.test = map(range, WHOLE[task])
    assert data.dataset == dataset
    assert (task, dataset) in lra.DATASETS.values()


def test_both_averages_of_the_published_transformer_come_out_of_its_row() -> None:
    found = lra.published().set_index(["source", "model"])
    told = {name: float(found[name][lra.ORIGINAL, "Transformer"]) for name in lra.DATASETS}
    assert told["Path-X"] == -math.inf  # a published failure
    means = lra.averages(told)
    assert means[lra.FIVE] == pytest.approx(54.39, abs=0.005)
    assert means[lra.SIX] == pytest.approx(53.66, abs=0.005)


def test_no_training_validation_or_pretraining_accuracy_is_in_the_table() -> None:
    found = lra.published()
    assert found["Image"].max() == 90.44  # of Mega; what Linformer has on training rows is 97.23
    assert not found["source"].str.contains("ablation|Never Train").any()


def test_ours_stand_before_the_published_rows_of_their_mechanism() -> None:
    table = compared(*arena("linformer", 0.3, 0.5, 0.5, 0.3, 0.6))
    line = ours(table)["linformer"]
    assert line["ListOps"] == "30.00†"
    assert line[lra.FIVE] == "44.00"
    assert line[lra.SIX] == "–"  # Path-X was not run
    assert table is not None
    names = [each[:2] for each in table.lines]
    assert names[0] == ["linformer", "ours"]
    assert names[1] == ["linformer", "Linformer, LRA paper Table 1"]
    assert ["bigbird", "BigBird, LRA paper Table 1"] in names


def test_a_path_x_that_failed_counts_as_chance() -> None:
    failed = train("softmax", task="pathfinder", dataset="Path-X", status=Status.OOM, **LRA)
    line = ours(compared(*arena("softmax", 0.3, 0.5, 0.5, 0.3, 0.6), failed))["softmax"]
    assert line["Path-X"] == "oom"
    assert line[lra.SIX] == f"{(5 * 44 + 50) / 6:.2f}"


def test_stand_ins_are_never_there_and_parts_carry_their_mark() -> None:
    marked = (
        ("listops", "ListOps-sample"),
        ("text_classification", "IMDb-synthetic"),
        ("listops", "ListOps-L20-100"),
    )
    table = compared(*arena("softmax", 0.3, 0.5, 0.9, datasets=marked))
    line = ours(table)["softmax"]
    assert line["ListOps"] == "30.00† -sample"
    assert line["Text"] == "–"
    assert table is not None
    assert any(note.startswith("-sample:") for note in table.notes)
    assert compared(*arena("softmax", 0.5, datasets=marked[1:2])) is None


def test_a_rule_stands_in_the_arena_too() -> None:
    made = arena("softmax", 0.3, 0.5, 0.5, 0.3, 0.6, rules={"first token": {"accuracy": 0.359}})
    assert ours(compared(*made))["rule: first token"]["ListOps"] == "35.90†"


def recall(attention: str, value: float, *, width: int = 64, lr: float = 1e-3, validated: float = 0,
           dataset: str = "MQAR-L64-N4", **fields) -> Record:  # fmt: skip
    curve = [Measurement("accuracy", validated, "", "higher", "validation", step=1)]
    model = {"embed_dim": width, "lr": lr}
    return train(attention, {"accuracy": value}, dataset=dataset, model=model, extra=curve,
                 data={"set": dataset}, **fields)  # fmt: skip


def recalled(*records: Record) -> pd.DataFrame:
    table = rows(list(records))
    found = mqar.comparison(table, quality(table))
    assert found is not None
    return found.data.set_index(["dataset", "attention"])


def test_recall_is_matched_by_length_pairs_and_width() -> None:
    found = recalled(*(recall("base_conv", 0.5, width=width) for width in (64, 128)))
    assert found.loc[("MQAR-L64-N4 width 64", "base_conv"), "value"] == 0.701
    assert found.loc[("MQAR-L64-N4 width 128", "base_conv"), "value"] == 0.943
    assert found.loc[("MQAR-L64-N4 width 64", "base_conv"), "name"] == "base_conv"


def test_the_hard_setting_is_another_task() -> None:
    found = recalled(recall("softmax", 0.5, dataset="MQAR-L256-N64-filler"))
    assert found.loc[("MQAR-L256-N64-filler width 64", "softmax"), "value"] == 0.797


def test_the_learning_rate_is_chosen_by_validation() -> None:
    made = [
        recall("softmax", test, lr=lr, validated=validated)
        for lr, test, validated in ((0.1, 0.9, 0.2), (0.2, 0.4, 0.3))
    ]
    found = recalled(*made)
    assert found.loc[("MQAR-L64-N4 width 64", "softmax"), "mean"] == 0.4


def test_mad_is_beside_two_tables_with_the_softmax_of_each() -> None:
    made = train("deltanet", {"macro_accuracy": 0.9}, task="mad_fuzzy_recall", dataset="MAD")
    found = mad.comparison(quality(rows(made)))
    assert found is not None
    both = found.data[found.data["attention"] == "deltanet"]
    ratios = dict(zip(both["value"], both["ratio_published"], strict=True))
    assert ratios == pytest.approx({0.357: 35.7 / 29.8, 0.393: 39.3 / 56.5})
    assert mad.comparison(quality(rows(train("abc", {"accuracy": 0.9})))) is None
