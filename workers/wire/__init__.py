"""The wire: envelope, messages, errors and codec, shared by worker, supervisor and client.

It imports the standard library and msgpack, and NumPy only where there is one, because a worker runs in the poorest
environment of the three. `PROTOCOL.md` beside this package's parent describes the same bytes for other languages.
"""
