"""Mechanistic architecture design: six small tasks, each with changes of its difficulty."""
