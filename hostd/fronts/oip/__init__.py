"""The Open Inference Protocol, version 2, with Triton's extensions.

`http.app(client)` is its REST front. What is here knows the protocol's messages; tensors and calls are `hostd.fronts`'.
"""
