"""ListOps: every row against an evaluator by recursion, all rows against the law of their sizes."""

import gzip
import hashlib
import statistics
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tasks.lra.listops.data import ListopsData, read
from tasks.lra.listops.expressions import PAD, SYMBOLS, evaluate, nesting, parse, write
from tasks.lra.listops.generate import Expressions, Settings, generate, length_law

SHORT = {"min_len": 3, "max_len": 12, "max_depth": 3, "max_args": 4}
FOLD = {"[MIN": min, "[MAX": max, "[SM": lambda values: sum(values) % 10}


def solve(words: list[str], depth: int = 1) -> tuple[int, int, int]:
    """Value, greatest depth and most arguments of the expression that `words` begins with."""
    word = words.pop(0)
    if word in "0123456789":
        return int(word), depth, 0
    found = []
    while words[0] != "]":
        found.append(solve(words, depth + 1))
    words.pop(0)
    values = [value for value, _, _ in found]
    value = int(statistics.median(values)) if word == "[MED" else FOLD[word](values)
    deepest = max(deep for _, deep, _ in found)
    return value, deepest, max(len(values), *(most for _, _, most in found))


def check(rows: Expressions, settings: Settings) -> None:
    for tokens, length, label in zip(*rows, strict=True):
        assert settings.min_len < length < settings.max_len
        assert PAD not in tokens[:length]
        assert not tokens[length:].any()
        words = [SYMBOLS[token - 1] for token in tokens[:length]]
        value, deepest, most_args = solve(words)
        assert not words  # one expression, and nothing behind it
        assert value == label
        assert deepest <= settings.max_depth
        assert most_args <= settings.max_args


@pytest.mark.parametrize(
    "settings",
    [Settings(), Settings(**SHORT), Settings(100, 120, max_depth=6, max_args=20), Settings(3, 9)],
    ids=str,
)
def test_each_row_is_an_expression_of_the_grammar_with_its_value(settings: Settings) -> None:
    rows = generate(0, 100, settings)
    assert len(rows.labels) == 100
    check(rows, settings)


def by_recursion(depth: int, settings: Settings) -> dict[int, Fraction]:
    """The exact law of the length of an argument at `depth`, or of the whole for depth 1."""
    if depth == settings.max_depth:
        return {1: Fraction(1)}
    argument = by_recursion(depth + 1, settings)
    law: dict[int, Fraction] = {}
    for count in range(2, settings.max_args + 1):
        for lengths in product(argument, repeat=count):
            chance = Fraction(1, settings.max_args - 1)
            for length in lengths:
                chance *= argument[length]
            law[2 + sum(lengths)] = law.get(2 + sum(lengths), Fraction(0)) + chance
    if depth == 1:
        return law
    law = {length: chance / 4 for length, chance in law.items()}
    law[1] = law.get(1, Fraction(0)) + Fraction(3, 4)
    return law


def test_the_law_of_the_lengths_is_that_of_the_recursion() -> None:
    settings = Settings(min_len=3, max_len=30, max_depth=3, max_args=3)
    exact = by_recursion(1, settings)
    expected = [float(exact.get(length, 0)) for length in range(settings.max_len)]
    np.testing.assert_allclose(length_law(settings), expected, atol=1e-15)
    # 8.2 % of the original's trees are accepted, of which a quarter has an operator at the root.
    assert length_law(Settings())[501:].sum() / 4 == pytest.approx(0.082, abs=0.001)


def test_short_rows_have_every_expression_as_often_as_it_should_be() -> None:
    """4 or 5 tokens: an operator with two or three digits; 20,000 draws of 4 x 10^2 + 4 x 10^3."""
    rows = generate(1, 20_000, Settings(min_len=3, max_len=6, max_depth=2, max_args=3))
    two = rows.tokens[rows.lengths == 4].astype(int)
    assert len(two) / 20_000 == pytest.approx(0.5, abs=0.015)
    numbers = (two[:, 0] - 11) * 100 + (two[:, 1] - 1) * 10 + two[:, 2] - 1
    counts = np.bincount(numbers, minlength=400)
    expected = len(two) / 400
    chi2 = ((counts - expected) ** 2 / expected).sum() / 399
    assert chi2 == pytest.approx(1.0, abs=0.3)  # its deviation is sqrt(2 / 399) = 0.07


@pytest.fixture(scope="module")
def many() -> Expressions:
    return generate(20, 4096, Settings())


@pytest.mark.slow
def test_statistics_are_those_of_the_original(many: Expressions) -> None:
    """60,000 rows of the original; bounds are four deviations of a mean of 4,096 rows."""
    assert many.lengths.mean() == pytest.approx(1037, abs=4 * 394 / 64)
    assert many.lengths.std() == pytest.approx(394, abs=20)
    quantiles = np.quantile(many.lengths, [0.25, 0.5, 0.75, 0.95])
    np.testing.assert_allclose(quantiles, [702, 956, 1313, 1799], atol=40)
    labels = np.bincount(many.labels, minlength=10) / 4096
    original = [0.169, 0.091, 0.076, 0.084, 0.089, 0.089, 0.076, 0.072, 0.087, 0.166]
    np.testing.assert_allclose(labels, original, atol=0.024)
    tokens = np.bincount(many.tokens[many.tokens > 0], minlength=16)[1:] / many.lengths.sum()
    np.testing.assert_allclose(tokens[:10], 0.0715, atol=0.001)
    np.testing.assert_allclose(tokens[10:14], 0.0356, atol=0.001)
    assert tokens[14] == pytest.approx(0.142, abs=0.001)
    assert (nesting(many.tokens) == 9).all()
    law = length_law(Settings())[501:]
    bins = np.arange(0, len(law), 50)
    expected = np.add.reduceat(law / law.sum(), bins) * 4096
    found = np.add.reduceat(np.bincount(many.lengths, minlength=2000)[501:], bins)
    assert ((found - expected) ** 2 / expected).sum() / (len(bins) - 1) < 1.9  # four deviations


@pytest.mark.slow
def test_rules_come_out_on_the_published_ladder(tmp_path: Path) -> None:
    """Bounds: four deviations of an accuracy over 2,000 rows and the ladder's own 6,000."""
    data = ListopsData(num_train=4096, num_eval=2000, batch_size=8, cache_dir=str(tmp_path))
    data.setup()
    assert data.dataset == "ListOps-sample"
    found = {rule: 100 * score["accuracy"] for rule, score in data.trivial_scores().items()}
    ladder = {"majority": 16.9, "first token": 35.9}
    ladder |= {f"digits to nesting {i}": x for i, x in enumerate([47.7, 67.6, 78.7, 87.0], start=1)}
    assert found.keys() == ladder.keys()
    for rule, score in ladder.items():
        deviation = (score * (100 - score) * (1 / 2000 + 1 / 6000)) ** 0.5
        assert found[rule] == pytest.approx(score, abs=4 * deviation), rule


def test_rows_are_the_same_on_every_machine() -> None:
    rows = generate((3, 1), 64, Settings())
    digest = hashlib.sha256()
    for array in (rows.tokens, rows.lengths.astype("<u2"), rows.labels):
        digest.update(array.tobytes())
    assert digest.hexdigest() == "e207d9e0e0ede4b916f6533e3c4f0b5860c517f85811379b05132059801ba05f"


def data(**given: Any) -> ListopsData:
    sizes = {"num_train": 3000, "num_eval": 500, "batch_size": 16, **SHORT}
    made = ListopsData(**{**sizes, **given})
    made.setup()
    return made


def rows_of(part: Any) -> list[tuple[int, ...]]:
    return [tuple(row) for row in part[torch.arange(len(part))].tokens.tolist()]


def test_no_expression_is_in_two_parts_and_a_seed_moves_the_training_rows_only(
    tmp_path: Path,
) -> None:
    one, two = (data(cache_dir=str(tmp_path), seed=seed) for seed in (0, 1))
    parts = [set(rows_of(part)) for part in (one.train, one.validation, one.test)]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]
    assert not set(rows_of(two.train)) & parts[2]
    assert rows_of(one.test) == rows_of(two.test)
    assert rows_of(one.train) != rows_of(two.train)
    assert one.dataset == "ListOps-L3-12-D3-A4"


def test_a_batch_says_what_is_padding(tmp_path: Path) -> None:
    batch = data(cache_dir=str(tmp_path)).train[torch.tensor([2999, 0, 1500])]
    assert batch.tokens.dtype == batch.labels.dtype == torch.int64
    assert torch.equal(batch.is_padding, batch.tokens == PAD)
    assert evaluate(batch.tokens.numpy().astype(np.uint8)).tolist() == batch.labels.tolist()


@pytest.mark.parametrize(
    ("text", "max_nesting", "value"),
    [
        ("[MIN 9 [MAX 1 [SM 8 7 ] ] 6 ]", None, 5),
        ("[MIN 9 [MAX 1 [SM 8 7 ] ] 6 ]", 1, 6),
        ("[MIN 9 [MAX 1 [SM 8 7 ] ] 6 ]", 2, 1),
        ("[MAX [MIN [SM 4 5 ] ] [MED 1 2 ] ]", 2, 1),  # [MIN ] is empty and goes
        ("[MAX [MIN 1 2 ] [MED 1 2 ] ]", 1, -1),
        ("[MED 1 4 8 9 ]", None, 6),
        ("[MED 7 8 ]", None, 7),
        ("[SM 9 9 9 ]", None, 7),
        ("5", None, 5),
    ],
)
def test_evaluation_reads_as_far_down_as_it_is_told(
    text: str, max_nesting: int | None, value: int
) -> None:
    tokens = parse(text.encode())
    assert write(tokens) == text
    rows = np.zeros((2, 30), dtype=np.uint8)
    rows[:, : len(tokens)] = tokens
    assert evaluate(rows, max_nesting=max_nesting).tolist() == [value, value]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_len": 4}, r"4 < max_len .* max_len 4: the shortest expression"),
        ({"min_len": 500, "max_len": 500}, r"min_len \+ 1 < max_len .* 500 and max_len 500"),
        ({"min_len": 9, "max_len": 10}, r"no length lies between them"),
        ({"min_len": 200, "max_depth": 3}, r"min_len < 122 .* min_len 200: the longest"),
        ({"min_len": 4, "max_len": 7, "max_args": 2}, r"a share of 0.0e\+00 has between min_len 4"),
        ({"min_len": 500, "max_depth": 4, "max_len": 600}, r"it must be at least 1e-05"),
        ({"max_args": 1}, r"max_args must be at least 2, got 1"),
        ({"max_args": 33}, r"max_args must be at most 32, got 33"),
        ({"max_depth": 1}, r"max_depth must be at least 2, got 1"),
        ({"part": "dev"}, r"part must be one of train, validation, test, got 'dev'"),
    ],
)
def test_impossible_settings_are_refused_with_what_is_not_so(
    given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**given)


# From the test set of Nangia and Bowman: the target first, no header.
RELEASED = """0\t( ( ( ( ( [SM 6 ) 5 ) 9 ) 0 ) ] )
3\t( ( ( [MIN 3 ) 4 ) ] )
"""


def turned(text: str) -> str:
    """In the form of Long Range Arena: a header, the target last, lines as csv ends them."""
    swapped = ["\t".join(reversed(line.split("\t"))) for line in text.splitlines()]
    return "\r\n".join(["Source\tTarget", *swapped, ""])


def test_both_released_forms_are_read_as_one(tmp_path: Path) -> None:
    (tmp_path / "test_d20s.tsv").write_text(RELEASED)
    (tmp_path / "basic_test.tsv.gz").write_bytes(gzip.compress(turned(RELEASED).encode()))
    one, other = (read(path, max_len=9) for path in sorted(tmp_path.iterdir()))
    for name in one:
        assert np.array_equal(one[name], other[name])
    assert one["labels"].tolist() == [0, 3]
    assert [write(row) for row in one["tokens"]] == ["[SM 6 5 9 0 ]", "[MIN 3 4 ]"]


def test_parts_come_from_a_folder_or_are_cut_from_one_file(tmp_path: Path) -> None:
    text = "".join(f"{i % 10}\t[SM {i % 10} 0 ]\n" for i in range(50))
    for name in ("basic_train.tsv", "basic_val.tsv", "basic_test.tsv"):
        (tmp_path / name).write_text(turned(text))
    whole = data(source=str(tmp_path), num_train=None, num_eval=5)
    assert [len(part) for part in (whole.train, whole.validation, whole.test)] == [50, 5, 5]
    assert whole.dataset == "ListOps-sample"
    cut = data(source=str(tmp_path / "basic_train.tsv"), num_train=None, num_eval=None)
    assert [len(part) for part in (cut.train, cut.validation, cut.test)] == [40, 5, 5]
    (tmp_path / "basic_val.tsv").unlink()
    held = data(source=str(tmp_path), num_train=None, num_eval=None)
    assert [len(part) for part in (held.train, held.validation, held.test)] == [45, 5, 50]
    (tmp_path / "basic_test.tsv").unlink()
    with pytest.raises(ValueError, match=r"missing file .*basic_test.tsv \(or test.tsv"):
        data(source=str(tmp_path))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "expected 2 fields, an expression and its target, got 1"),
        ("[MIN 3 4 ]\t3\t3", "got 3"),
        ("[MIN 3 4 ]\t12", "expected a target of 0 to 9 in the second field, got '12'"),
        ("[MIN 3 4 ]\tx", "got 'x'"),
        ("[MIN 3 12 ]\t3", "unknown token '12'"),
        ("[MEAN 3 2 ]\t3", r"unknown token '\[MEAN'"),
        ("[MIN 3 [MAX 4 ]\t3", "leaves 1 open"),
        ("[MIN 3 4 ] 4 ]\t3", "ends before its last token"),
        ("[MIN 3 4 ] [MIN 3 4 ]\t3", "ends before its last token"),
        ("[MIN 3 [MAX ] ]\t3", "an operator has no arguments"),
        ("\t3", "the expression is empty"),
        ("[MIN 1 1 1 1 1 1 1 1 ]\t1", "has 10 tokens, more than max_len 9"),
        ("[MIN 3 4 ]\t4", "the target is 4, the expression comes to 3"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "basic_val.tsv"
    path.write_text("Source\tTarget\n[MIN 3 4 ]\t3\n" + line + "\n")
    with pytest.raises(ValueError, match=rf"basic_val.tsv, line 3: .*{message}"):
        read(path, max_len=9)


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "basic_val.tsv.gz"
    path.write_bytes(gzip.compress(turned(RELEASED).encode())[:-9])
    with pytest.raises(ValueError, match=r"basic_val.tsv.gz cannot be read"):
        read(path, max_len=9)
    with pytest.raises(ValueError, match=r"source must be .*; 'nowhere' is not there"):
        data(source="nowhere")
    with pytest.raises(ValueError, match="source must be"):
        data(source="hub")
