"""Tables, indices and plots, all computed from the run records."""
