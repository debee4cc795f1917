"""Exact softmax attention and the control without mixing."""
