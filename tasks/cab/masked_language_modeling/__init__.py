"""Masked language modelling of books (MLM)."""
