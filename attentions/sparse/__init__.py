"""Attention over a chosen part of the positions."""
