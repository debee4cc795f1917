"""Summarisation (Sum): several news articles in one summary."""
