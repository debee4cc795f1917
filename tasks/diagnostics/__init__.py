"""Synthetic tasks that ask for one ability each."""
