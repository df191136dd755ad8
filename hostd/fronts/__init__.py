"""Fronts: a host's models and verbs for clients that do not speak its wire protocol.

Each is a client of a host, by the public API alone, and can run in any process. Modules here know no protocol; each
protocol has a folder of its own. They need the extras `http` and `grpc`.
"""
