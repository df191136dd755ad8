"""A server of gRPC on `hostd.fronts.http2`: messages, calls, connections. Needs the extra `grpc`.

`serving` makes of plain handlers what `server` serves.
"""
