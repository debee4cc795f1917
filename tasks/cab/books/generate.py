"""Generated books for runs of seconds: each keeps to a few words of a large lexicon.

Which words these are is nowhere but in the book itself, so a model that remembers nothing of it is
left with the whole lexicon to guess from: a perplexity near `NUM_WORDS`, where one that looks back
comes near the number of the book's words.
"""

import torch

CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"
NUM_WORDS = 64


def write_books(
    num_books: int,
    *,
    words_per_book: int,
    book_len: int,
    seed: int,
    words_per_line: int | None = None,
) -> list[str]:
    """Books of `book_len` words, drawn from `words_per_book` words of the lexicon.

    A line break follows every `words_per_line` words; None leaves a book in one line.
    """
    generator = torch.Generator().manual_seed(seed)
    lexicon = _lexicon()
    books = []
    for _ in range(num_books):
        chosen = torch.randperm(NUM_WORDS, generator=generator)[:words_per_book]
        drawn = torch.randint(words_per_book, (book_len,), generator=generator)
        words = [f" {lexicon[i]}" for i in chosen[drawn].tolist()]
        if words_per_line is not None:
            lasts = range(words_per_line - 1, book_len, words_per_line)
            words = [f"{word}\n" if i in lasts else word for i, word in enumerate(words)]
        books.append("".join(words))
    return books


def _lexicon() -> list[str]:
    """Words of two syllables, the same in every run."""
    syllables = [c + v for c in CONSONANTS for v in VOWELS]
    generator = torch.Generator().manual_seed(0)
    pairs = torch.randperm(len(syllables) ** 2, generator=generator)[:NUM_WORDS].tolist()
    return [syllables[i // len(syllables)] + syllables[i % len(syllables)] for i in pairs]
