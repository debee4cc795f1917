"""The figures of single kinds of tasks, a file per kind."""
