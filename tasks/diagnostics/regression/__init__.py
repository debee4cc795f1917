"""Functions to be fitted in context: linear ones, and ones made of linear pieces."""
