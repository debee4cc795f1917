"""Context and questions: solvers of other code, layouts of the patterns, trivial rules."""

import hashlib
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import get_class

from attentions.base import Pattern, UnsupportedPattern
from tasks.diagnostics import (
    associative_memory,
    copying,
    cross_recall,
    needle,
    parity,
    passkey,
    stack,
)
from tasks.diagnostics.questions import Questions, lay_out
from tasks.rules.answers import IGNORED
from tests.tasks.building import build_data, build_model, quiet_trainer, settings

KINDS: dict[str, tuple[Callable[..., Questions], Any]] = {
    "cross_recall": (cross_recall.generate, cross_recall.Settings(8, 5, 64, 2)),
    "needle": (needle.generate, needle.Settings(40, 0.3, num_decoys=5)),
    "passkey": (passkey.generate, passkey.Settings(30, 0.4)),
    "copy": (copying.generate, copying.Settings(9, 12, "copy")),
    "palindrome": (copying.generate, copying.Settings(9, 12, "palindrome", shown=False)),
    "parity": (parity.generate, parity.Settings(20, 2, "each", 5)),
    "sums": (parity.generate, parity.Settings(20, 5, "end")),
    "stack": (stack.generate, stack.Settings(60, 3, 8)),
}
TASKS = [*("associative_memory", "copying", "cross_recall", "needle", "parity", "passkey", "stack")]


def draw(name: str, count: int = 200, seed: int = 0) -> Questions:
    generate, kind = KINDS[name]
    return generate(seed, count, kind)


def recalled(context: list[int], queries: list[int]) -> list[int]:
    """A dictionary."""
    known = dict(zip(context[::2], context[1::2], strict=True))
    return [known[token] for token in queries if token]


def found(context: list[int], queries: list[int]) -> list[int]:
    """The last token of the one place where the question stands in the haystack."""
    text, question = (" ".join(map(str, part)) for part in (context, queries))
    (value,) = re.findall(rf"(?<!\d){question} (\d+)", text)
    return [int(value)]


def read(context: list[int], queries: list[int]) -> list[int]:
    """The key by the words around it, and once more after "Remember it."."""
    words = [*map(str, range(10)), *passkey.WORDS]
    text = " ".join(words[token] for token in context)
    once = re.search(r"The pass key is ((?:\d )+)Remember it\. ((?:\d )+)is the pass key\.", text)
    assert once is not None
    assert once[1] == once[2]
    assert " ".join(words[token] for token in queries).startswith(passkey.QUESTION)
    return [int(digit) for digit in once[1].split()]


def summed(modulus: int, queries: list[int]) -> list[int]:
    """The sums of all prefixes."""
    return [sum(queries[: end + 1]) % modulus for end in range(len(queries))]


def popped(queries: list[int]) -> list[int]:
    """Python's lists as stacks."""
    stacks: list[list[int]] = [[], [], []]
    said = []
    for operation, token in zip(queries[::2], queries[1::2], strict=True):
        if operation < 3:
            stacks[operation].append(token)
            said.append(IGNORED)
        else:
            said.append(stacks[operation - 3].pop())
            assert said[-1] == token  # shown afterwards
    return said


SOLVERS: dict[str, Callable[[list[int], list[int]], list[int]]] = {
    "cross_recall": recalled,
    "needle": found,
    "passkey": read,
    "copy": lambda context, queries: context,
    "palindrome": lambda context, queries: context[::-1],
    "parity": lambda context, queries: summed(2, queries)[5:],
    "sums": lambda context, queries: summed(5, queries)[-1:],
    "stack": lambda context, queries: popped(queries),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_solver_of_other_code_answers_everything(name: str) -> None:
    rows = draw(name)
    for context, queries, answers in zip(
        rows.context.tolist(), rows.queries.tolist(), rows.answers.tolist(), strict=True
    ):
        assert SOLVERS[name](context, queries) == answers
    assert (rows.answers != IGNORED).any(axis=1).all()


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("cross_recall", "5ea36d6c062ea174"),
        ("needle", "44bf7299d1b84461"),
        ("passkey", "e136b76e3a7aa5e5"),
        ("copy", "7419394a5c28f9e1"),
        ("parity", "76b397e958ddcf6d"),
        ("stack", "6b5868a7cd6049eb"),
    ],
)
def test_a_seed_gives_the_same_rows_on_any_machine(name: str, digest: str) -> None:
    rows = draw(name, count=20, seed=1)
    assert all(part.dtype == np.int32 for part in rows)
    whole = b"".join(np.ascontiguousarray(part).astype("<i4").tobytes() for part in rows)
    assert hashlib.sha256(whole).hexdigest()[:16] == digest
    other = draw(name, count=20, seed=2)
    assert not np.array_equal(rows.answers, other.answers)


@pytest.mark.parametrize("pattern", Pattern)
def test_every_pattern_reads_the_same_tokens_at_the_same_questions(pattern: Pattern) -> None:
    rows = draw("cross_recall")
    batch = lay_out(rows, pattern).every()
    asked = batch.tokens.gather(1, batch.positions)
    assert torch.equal(asked, torch.as_tensor(rows.queries[:, 2::3]).long())
    assert torch.equal(batch.answers, torch.as_tensor(rows.answers).long())
    if pattern.is_cross:
        assert batch.context is not None
        assert torch.equal(batch.context, torch.as_tensor(rows.context).long())
        assert torch.equal(batch.tokens, torch.as_tensor(rows.queries).long())
    else:
        assert batch.context is None
        whole = np.concatenate([rows.context, rows.queries], axis=1)
        assert torch.equal(batch.tokens, torch.as_tensor(whole).long())


@pytest.mark.parametrize("name", ["cross_recall", "needle", "palindrome"])
def test_no_answer_stands_in_the_questions_of_the_tasks_that_every_pattern_serves(
    name: str,
) -> None:
    rows = draw(name)
    if name == "palindrome":
        assert (rows.queries[:, 1:] == copying.BLANK).all()
    else:  # keys and values are of different tokens
        assert rows.queries.max() < rows.answers.min()


@pytest.mark.parametrize("task", ["cross_recall", "needle", "associative_memory"])
@pytest.mark.parametrize("pattern", Pattern)
def test_without_mixing_nothing_of_the_context_reaches_a_question(
    task: str, pattern: Pattern
) -> None:
    """So that what a run scores is the mechanism's; the convolution alone must not answer."""
    data = build_data(task + "/tiny", pattern, num_train=1000, num_eval=8, eval_batch_size=8)
    model = build_model(task + "/tiny", data, "none", pattern).eval()
    batch = data.test.members[0].every()
    other = batch.tokens.clone(), None if batch.context is None else batch.context.flip(1)
    if batch.context is None:  # of what stands before the questions, all but their blanks
        length = int(batch.positions[0, 0]) - data.kinds[0].num_blanks if task != "needle" else 0
        other[0][:, :length] = other[0][:, :length].flip(1)
    expected = model.network(batch.tokens, batch.positions, batch.context)
    torch.testing.assert_close(model.network(other[0], batch.positions, other[1]), expected)


@pytest.mark.parametrize("depth", [0.0, 0.25, 1.0])
def test_the_needle_stands_at_its_depth_among_the_noise(depth: float) -> None:
    kind = needle.Settings(100, depth, num_decoys=3)
    rows = needle.generate(0, 100, kind)
    is_asked = (rows.context[:, :-1] == rows.queries[:, :1]) & (
        rows.context[:, 1:] == rows.queries[:, 1:]
    )
    start = is_asked.argmax(axis=1)
    for row, begin in zip(rows.context, start, strict=True):
        noise_before = (row[:begin] < kind.num_noise).sum()
        assert noise_before == round(depth * 86)  # 100 - 2 - 4 * 3 tokens of noise
    assert ((rows.context == kind.marker).sum(axis=1) == 4).all()


def test_the_text_of_the_pass_key_is_that_of_the_original() -> None:
    rows = passkey.generate(0, 1, passkey.Settings(21, 0.9))
    words = [*map(str, range(10)), *passkey.WORDS]
    text = " ".join(words[token] for token in rows.context[0])
    filler = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back"
    assert text.startswith(passkey.DESCRIPTION + " " + filler + " again. The pass key is ")
    assert text.endswith(" is the pass key. The grass")
    assert rows.context.shape[1] + rows.queries.shape[1] == passkey.Settings(21, 0.9).length


def test_pops_are_a_half_wherever_there_is_something_to_pop() -> None:
    rows = stack.generate(0, 2000, stack.Settings(60, 3, 8))
    pops = rows.queries[:, ::2] >= 3
    height = (1 - 2 * pops[:, :-1].astype(int)).cumsum(axis=1)
    share = pops[:, 2:][height[:, 1:] > 0].mean()
    assert share == pytest.approx(0.5, abs=0.01)  # 40,000 coins: a standard deviation of 0.003


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cross_recall.Settings(32, 4, 64), r"<= vocab_size / 2 - 1 .* 32 pairs, .* 64"),
        (lambda: cross_recall.Settings(0, 4, 64), "num_pairs >= 1"),
        (lambda: needle.Settings(19, 0.5, 5), r"fails: 3 \* \(5 \+ 1\) \+ 2 > 19"),
        (lambda: needle.Settings(50, 0.5, 5, num_keys=5), r"num_keys fails: 5 \+ 1 > 5"),
        (lambda: needle.Settings(50, 1.5), "0 <= depth <= 1 fails: depth 1.5"),
        (lambda: passkey.Settings(-1, 0.5), "num_filler >= 0"),
        (lambda: copying.Settings(4, 3), "vocab_size >= 4 .* fails: 4, 3"),
        (lambda: copying.Settings(4, 8, "reverse"), "order must be 'copy' or 'palindrome'"),  # type: ignore
        (lambda: parity.Settings(8, after=8), "0 <= after < length fails: 8, 8"),
        (lambda: parity.Settings(8, 1), "modulus >= 2 fails: 1"),
        (lambda: stack.Settings(2), "length >= 4 .* fails: 2"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_inequality(
    make: Callable[[], Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_answers_that_are_shown_are_refused_where_they_would_leak() -> None:
    with pytest.raises(Exception, match="shown answers leak in noncausal_self"):
        build_data("copying/tiny", Pattern.NONCAUSAL_SELF, shown=True)
    assert Pattern.NONCAUSAL_SELF not in passkey.Passkey.patterns


def test_a_task_is_refused_by_its_own_name() -> None:
    sizes: dict[str, Any] = {"num_pairs": [2, 64], "num_queries": 2, "vocab_size": 64}
    given: dict[str, Any] = {"pattern": "causal_self", "num_eval": 8, "batch_size": 4}
    with pytest.raises(ValueError, match=r"^associative_memory: num_pairs <= .* 64 pairs"):
        associative_memory.AssociativeMemoryData(
            key_dim=4, value_dim=4, num_train=8, **sizes, **given
        )
    for task, name in (("parity", "Parity"), ("stack", "Stack")):
        data = build_data(f"{task}/tiny", num_train=100, num_eval=2)
        with pytest.raises(UnsupportedPattern, match=f"task {name} has no noncausal_self"):
            build_model(f"{task}/tiny", data, "softmax", Pattern.NONCAUSAL_SELF)


def test_other_sources_and_too_few_rows_are_refused() -> None:
    given = {"pattern": "causal_self", "num_eval": 8, "batch_size": 4, "num_train": 8}
    sizes = {"num_pairs": [2, 4], "num_queries": 2, "vocab_size": 64}
    with pytest.raises(ValueError, match="source must be 'generated', got 'hub'"):
        cross_recall.CrossRecallData(source="hub", **sizes, **given)
    given |= {"num_train": 7, "source": "generated"}
    with pytest.raises(ValueError, match=r"a batch of each, fails: 7 < 2 \* 4"):
        cross_recall.CrossRecallData(**sizes, **given)


@pytest.mark.parametrize("task", TASKS)
def test_groups_rules_and_directions_belong_together(task: str) -> None:
    pattern = min(get_class(settings(task + "/tiny")["model"]["_target_"]).patterns)
    data = build_data(task + "/tiny", pattern, num_train=1000, num_eval=20, eval_batch_size=20)
    model = build_model(task + "/tiny", data, "none", pattern)
    tested = quiet_trainer().test(model, data, verbose=False)[0]
    measured = {row["metric"]: row["value"] for row in model.measure()}
    groups = {name: value for name, value in measured.items() if name.startswith("accuracy_")}
    assert tested["accuracy"] == pytest.approx(np.mean(list(groups.values())))
    for scores in data.trivial_scores().values():
        assert scores.keys() <= model.directions.keys() | measured.keys()
        assert groups.keys() <= scores.keys()
        assert all(0 <= value <= 1 for name, value in scores.items() if name != "pairs_held")


def test_fresh_rows_are_others_in_each_epoch_and_of_the_same_kinds() -> None:
    data = build_data("cross_recall/tiny", fresh=True, num_train=128, num_eval=4)
    loader, seen = data.train_dataloader(), []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        seen += [batch.tokens for batch in loader]
    assert sorted(tokens.shape for tokens in seen) == [
        (32, 8 + 2 * n) for n in (4, 4, 8, 8, 16, 16, 32, 32)
    ]
    rows = [tuple(row) for tokens in seen for row in tokens.tolist()]
    assert len(set(rows)) == len(rows) == 256


def test_knowing_values_but_no_keys_gives_one_in_as_many() -> None:
    scores = build_data("cross_recall/tiny").trivial_scores()
    for pairs in (4, 8, 16, 32):
        any_value = scores["any value of the context"][f"accuracy_{pairs}_pairs"]
        assert any_value == pytest.approx(1 / pairs)
        last = scores["last value"][f"accuracy_{pairs}_pairs"]
        assert last == pytest.approx(1 / pairs, abs=0.03)  # 2,000 questions
        assert scores["majority"][f"accuracy_{pairs}_pairs"] < 0.03


@pytest.mark.parametrize("dim", [32, 64])
def test_a_hebbian_memory_holds_the_pairs_that_its_size_lets_it(dim: int) -> None:
    """At 90 % some 0.25 to 0.31 times D^2 / ln V: the noise of N pairs against V values."""

    def accuracy(share: float) -> float:
        pairs = round(share * dim**2 / np.log(4096))
        sizes = {"key_dim": dim, "value_dim": dim, "num_values": 4096}
        return associative_memory.hebbian_accuracy(0, pairs, count=600 // pairs, **sizes)

    assert accuracy(0.2) > 0.92  # 600 pairs: a standard deviation of 0.012
    assert accuracy(0.37) < 0.88


def test_pairs_held_lie_where_the_accuracy_crosses_nine_tenths() -> None:
    held = associative_memory.pairs_held
    assert held({4: 1.0, 8: 1.0}) == 8
    assert held({4: 0.8, 8: 0.1}) == 0
    assert held({4: 1.0, 8: 0.8}) == pytest.approx(4 * 2**0.5)


@pytest.mark.slow
@pytest.mark.parametrize("pattern", [Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_CROSS])
def test_softmax_recalls_in_one_stream_and_in_two(pattern: Pattern) -> None:
    data = build_data("cross_recall/tiny", pattern, num_train=8000, num_eval=100)
    model = build_model("cross_recall/tiny", data, "softmax", pattern)
    torch.manual_seed(0)
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(model, datamodule=data)
    assert trainer.test(model, data, verbose=False)[0]["accuracy"] > 0.95
