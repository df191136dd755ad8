"""Fronts: protocols of other programs, each a client of the public API.

Modules here know no protocol; each protocol has a folder of its own. They need the extra `http`.
"""
