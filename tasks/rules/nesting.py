"""Reading a ListOps expression from the top down to some nesting, and guessing the rest away.

The ladder by which an accuracy on ListOps is to be read: a model at the accuracy of the first rungs
knows nothing of what stands further inside.
"""

from torch import Tensor

from tasks.lra.listops.expressions import evaluate


def shallow(tokens: Tensor, labels: Tensor, *, max_nesting: int, otherwise: int) -> float:
    """The accuracy of evaluating only what is inside of at most `max_nesting` operators.

    Args:
        tokens: Expressions, uint8 (rows, N).
        labels: Their values, int64 (rows,).
        max_nesting: 1 takes the digits that are arguments of the root. What stands further inside
            is left out, and so are operators that are left without arguments.
        otherwise: The answer where nothing is left of the whole expression.
    """
    values = evaluate(tokens.numpy(), max_nesting=max_nesting)
    values[values < 0] = otherwise
    return float((values == labels.numpy()).mean())
