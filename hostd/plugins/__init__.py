"""Plugins of a host: what they are, where they come from, and what a model's own file says of them."""
