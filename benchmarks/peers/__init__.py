"""Other model servers, measured with the same model: how each is found, started and called.

What ends in `_app`, and `triton_model` and `triton_client`, runs under the peer's own interpreter, in which this
project is not installed.
"""
