"""Language modelling (LM): each token of a book from those before it."""
