"""Attention bias and reliance on context: what the toolkit measures beside accuracy."""
