"""Attention through a fixed number of summaries of the positions."""
