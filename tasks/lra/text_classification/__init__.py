"""Text: whether a film review, read byte by byte, praises the film."""
