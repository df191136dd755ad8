"""The Open Inference Protocol over gRPC, with Triton's extensions, and gRPC's own services for health and reflection.

`services.handlers(...)` are what a server of `grpc.aio` serves. Needs the extra `grpc`.
"""
