"""The checks of `attnbench verify`: each takes a `Subject` and returns a `Finding` of its name."""
