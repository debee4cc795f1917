"""Retrieval: whether two papers, read byte by byte, cite one another."""
