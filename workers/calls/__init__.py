"""Calls of the loaded model, and what goes back to their callers."""
