"""The synchronous, thread-safe client."""
