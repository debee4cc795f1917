"""Grouped-query attention: softmax attention with the key and value heads repeated."""

from tests.oracles.softmax import STATE_GROWS, oracle

__all__ = ["STATE_GROWS", "oracle"]
