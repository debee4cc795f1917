"""Mechanisms that mix by convolutions and gates."""
