"""The tasks of CAB (Zhang et al., ICML 2023, arXiv:2210.07661)."""
