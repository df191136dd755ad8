"""Sizes of models before they are loaded: what was measured, what is declared, what is estimated."""
