"""Expressions as rows of tokens: their table of tokens, their text, and what they come to.

The table is fixed. The original builds its own from a set, so that its numbers change with the
hash seed of the process. Neither the parentheses of the files nor a token for the class is in it.
"""

import numpy as np

PAD = 0
SYMBOLS = (*"0123456789", "[MIN", "[MAX", "[MED", "[SM", "]")
"""Tokens 1 to 15; token 0 is padding."""
VOCAB_SIZE = 1 + len(SYMBOLS)
NUM_CLASSES = 10
DIGIT, OPERATOR, CLOSE = 1, 11, 15
"""The first digit, the first operator (MIN, MAX, MED, SM in this order), the closing bracket."""
MIN, MAX, MED, SM = range(4)

_NUMBERS = {symbol.encode(): number for number, symbol in enumerate(SYMBOLS, start=1)}
_STEPS = np.zeros(256, dtype=np.int64)
_STEPS[OPERATOR:CLOSE], _STEPS[CLOSE] = 1, -1
_ROWS_AT_ONCE = 256


def parse(text: bytes) -> np.ndarray:
    """The tokens of one expression, uint8 (N,). Parentheses say nothing, and are left out.

    Raises:
        ValueError: If it is not one whole expression.
    """
    words = text.replace(b"(", b" ").replace(b")", b" ").split()
    try:
        tokens = np.frombuffer(bytes(map(_NUMBERS.__getitem__, words)), dtype=np.uint8)
    except KeyError as error:
        unknown = error.args[0].decode(errors="replace")
        raise ValueError(f"unknown token {unknown!r} (known: {' '.join(SYMBOLS)})") from None
    if not len(tokens):
        raise ValueError("the expression is empty")
    nesting = _STEPS[tokens].cumsum()
    if nesting[-1] != 0 or (nesting[:-1] < 1).any():
        raise ValueError(
            "the expression must be one operator with its arguments and ']', got "
            f"{text[:60].decode(errors='replace')!r}, which "
            + (f"leaves {nesting[-1]} open" if nesting[-1] > 0 else "ends before its last token")
        )
    if ((tokens[1:] == CLOSE) & (tokens[:-1] >= OPERATOR) & (tokens[:-1] < CLOSE)).any():
        raise ValueError("an operator has no arguments")
    return tokens


def write(tokens: np.ndarray) -> str:
    """The text of one row of tokens, without parentheses."""
    return " ".join(SYMBOLS[token - 1] for token in tokens[tokens != PAD])


def nesting(tokens: np.ndarray) -> np.ndarray:
    """How many operators are around the deepest token of each row (rows, N), int64 (rows,)."""
    return _STEPS[tokens].cumsum(axis=1).max(axis=1)


def evaluate(tokens: np.ndarray, *, max_nesting: int | None = None) -> np.ndarray:
    """What each row comes to, int64 (rows,).

    Args:
        tokens: Whole expressions, uint8 (rows, N), with padding on the right.
        max_nesting: Leave out what is inside of more operators than this, and then operators
            without arguments, all the way up. None for all.

    Returns:
        The values; -1 where nothing is left.
    """
    parts = [
        _evaluate(tokens[begin : begin + _ROWS_AT_ONCE], max_nesting)
        for begin in range(0, len(tokens), _ROWS_AT_ONCE)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def _evaluate(tokens: np.ndarray, max_nesting: int | None) -> np.ndarray:
    rows, length = tokens.shape
    flat = tokens.ravel()
    # Each row ends at nesting 0, so that one sum runs through all of them.
    inside = _STEPS[flat].cumsum()
    places = np.flatnonzero((flat >= DIGIT) & (flat < CLOSE))
    kinds = flat[places]
    is_operator = kinds >= OPERATOR
    levels = (inside[places] - is_operator).astype(np.int16)  # how many operators are around each
    order = levels.argsort(kind="stable")
    places, kinds, is_operator = places[order], kinds[order], is_operator[order]
    values = np.where(is_operator, -1, kinds.astype(np.int64) - DIGIT)
    bounds = np.append(0, np.bincount(levels).cumsum())
    deepest = len(bounds) - 2
    if max_nesting is not None:
        deepest = min(deepest, max_nesting)
    for level in range(deepest, 0, -1):
        here = slice(bounds[level], bounds[level + 1])
        heads = np.flatnonzero(is_operator[bounds[level - 1] : bounds[level]]) + bounds[level - 1]
        known = values[here] >= 0
        # The last operator of the level above that opens before an argument is the one around it.
        owners = np.searchsorted(places[heads], places[here][known]) - 1
        counts = np.bincount(owners, minlength=len(heads))
        slots = np.arange(len(owners)) - (counts.cumsum() - counts)[owners]
        table = np.zeros((counts.max(initial=1), len(heads)), dtype=np.uint8)
        table[slots, owners] = values[here][known]
        results = apply(kinds[heads] - OPERATOR, table, counts)
        values[heads] = np.where(counts > 0, results.astype(np.int64), -1)
    results = np.full(rows, -1, dtype=np.int64)
    results[places[: bounds[1]] // length] = values[: bounds[1]]
    return results


def apply(operators: np.ndarray, arguments: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The value of each operator, uint8 (operators,).

    Args:
        operators: 0 to 3: MIN, MAX, MED (of an even count the mean of the middle two, cut to a
            whole number), SM (the sum modulo 10).
        arguments: Digits, uint8 (most arguments, operators).
        counts: How many of its column each operator has, from the first on.
    """
    used = np.arange(len(arguments), dtype=np.uint16)[:, None] < counts
    zeros = arguments * used
    sums = zeros.sum(axis=0, dtype=np.uint16) % 10
    results = np.where(operators == MAX, zeros.max(axis=0), sums.astype(np.uint8))
    filled = arguments | (used - np.uint8(1))  # 255 where there is none
    results = np.where(operators == MIN, filled.min(axis=0), results)
    chosen = np.flatnonzero(operators == MED)
    low, high = np.zeros((2, len(chosen)), dtype=np.uint8)
    columns, count = filled.take(chosen, axis=1), counts[chosen]
    for digit in range(9):
        # As many digits at or below it as the middle ones are from the left: they are no greater.
        below = (columns <= digit).sum(axis=0, dtype=np.uint16)
        low += below < (count + 1) // 2
        high += below < count // 2 + 1
    results[chosen] = (low + high) // 2
    return results
