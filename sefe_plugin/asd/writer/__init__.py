"""Texts that a model writes where no rule can."""
