"""ListOps: what a nested prefix expression over digits comes to."""
