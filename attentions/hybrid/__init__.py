"""Mechanisms made of two others."""
