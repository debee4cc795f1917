"""Multi-query associative recall: store key-value pairs, then answer for each key.

Source: Arora et al., "Zoology", ICLR 2024, arXiv:2312.04927, and its code.
Departs from them: see `tasks.diagnostics.answers` and, for the model, `tasks.backbones.recall`. The
noncausal and the cross patterns are ours.
In: tokens (B, N). Out: the value of each of P pairs, read at the second sight of its key. Scores:
argmax over the whole vocabulary, mean over the keys of an example, then over the examples.
"""

from attentions.base import Pattern
from tasks.diagnostics.answers import Answering


class Mqar(Answering):
    """Answer each key with its value. No value stands behind a query, so none leaks without a mask.

    The benchmark takes the best of several learning rates.
    """

    patterns = frozenset(Pattern)
    backbone = "Zoology"
