"""A rule that weighs a few numbers of a row, fitted to the training rows."""

import torch
from torch import Tensor

RIDGE = 1e-3
STEPS = 25


def logistic(
    train_features: Tensor, train_labels: Tensor, test_features: Tensor, test_labels: Tensor
) -> float:
    """The accuracy of a logistic regression of two classes.

    Args:
        train_features: Numbers of the training rows, (rows, features).
        train_labels: 0 or 1, int64 (rows,).
        test_features: Those of the test rows.
        test_labels: int64 (rows,).
    """
    mean, std = train_features.double().mean(dim=0), train_features.double().std(dim=0)

    def standardised(features: Tensor) -> Tensor:
        scaled = (features.double() - mean) / std.clamp(min=1e-12)
        return torch.cat([scaled, torch.ones(len(scaled), 1, dtype=torch.float64)], dim=1)

    inputs, targets = standardised(train_features), train_labels.double()
    weights = torch.zeros(inputs.shape[1], dtype=torch.float64)
    penalty = RIDGE * len(inputs) * torch.eye(len(weights), dtype=torch.float64)
    for _ in range(STEPS):  # Newton's
        chances = (inputs @ weights).sigmoid()
        gradient = inputs.T @ (chances - targets) + penalty @ weights
        curvature = (inputs.T * (chances * (1 - chances))) @ inputs + penalty
        weights = weights - torch.linalg.solve(curvature, gradient)
    guesses = standardised(test_features) @ weights > 0
    return (guesses == test_labels.bool()).double().mean().item()
