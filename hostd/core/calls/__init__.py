"""Calls of models, in flight and held."""
