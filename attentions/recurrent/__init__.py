"""Mechanisms with a state that each position rewrites: delta rules and state spaces."""
