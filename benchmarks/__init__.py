"""Floors and the host side by side: `python -m benchmarks --help`."""
