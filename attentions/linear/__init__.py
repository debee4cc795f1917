"""Attention by feature maps, linear in the length."""
