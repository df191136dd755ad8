"""HTTP/2 (RFC 9113) as a server has it: bytes in, events out; frames in, bytes out. Does no I/O, knows no gRPC.

`connection.Connection` is one connection. Heads are read by `hpack`; why the rest is not h2's is in ARCHITECTURE, 129.
"""
