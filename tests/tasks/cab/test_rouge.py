"""ROUGE against counts by hand, and the sentence rule that rougeLsum rests on."""

import pytest

from tasks.cab.summarization.rouge import rouge_f1, split_sentences


def f1(matches: int, summary: int, reference: int) -> float:
    return 100 * 2 * matches / (summary + reference)


def test_scores_by_hand() -> None:
    scores = rouge_f1("The cat sat on mats.", "A cat sits on the mat!")
    # Stems: the cat sat on mat | a cat sit on the mat. Unigrams the, cat, on, mat; no bigram but
    # none: (the cat)(cat sat)(sat on)(on mat) | (a cat)(cat sit)(sit on)(on the)(the mat).
    assert scores["rouge1"] == pytest.approx(f1(4, 5, 6))
    assert scores["rouge2"] == 0.0
    assert scores["rougeLsum"] == pytest.approx(f1(3, 5, 6))  # cat on mat, in that order


def test_rouge_l_joins_the_common_subsequences_of_all_sentences() -> None:
    # Lin 2004, 3.2: reference w1 w2 w3 w4 w5, candidates w1 w2 w6 w7 w8 and w1 w3 w8 w9 w5: the
    # union of w1 w2 and w1 w3 w5 has 4 words. One line instead of two would give fewer.
    scores = rouge_f1("W1 w2 w6 w7 w8. W1 w3 w8 w9 w5.", "W1 w2 w3 w4 w5.")
    assert scores["rougeLsum"] == pytest.approx(f1(4, 10, 5))


def test_the_order_of_sentences_is_free_in_rouge_l() -> None:
    one, two = "The mayor resigned.", "Nobody knows why 12 aides left."
    assert rouge_f1(f"{one} {two}", f"{two} {one}")["rougeLsum"] == pytest.approx(100)


def test_an_empty_summary_scores_nothing_and_an_equal_one_everything() -> None:
    assert set(rouge_f1(" \n", "Some news.").values()) == {0.0}
    assert rouge_f1("Some real news.", "some REAL news") == {
        "rouge1": 100.0,
        "rouge2": 100.0,
        "rougeLsum": 100.0,
    }


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ('"Stop." He left.', ['"Stop."', "He left."]),
        ("He left. “Why?” she asked.", ["He left.", "“Why?” she asked."]),
        (
            "Mr. Smith of the U.S. Senate paid $3.5 million.",
            ["Mr. Smith of the U.S. Senate paid $3.5 million."],
        ),
        ("J. K. Rowling wrote. Dr. No read.", ["J. K. Rowling wrote.", "Dr. No read."]),
        ("first line\n\nsecond line\n", ["first line", "second line"]),
        ("It ended. 12 were hurt.", ["It ended.", "12 were hurt."]),
        ("e.g. this stays", ["e.g. this stays"]),
        ("", []),
    ],
)
def test_sentences(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences
