"""Tests that are coroutines."""

import asyncio
import functools


def on_a_loop(test):
    """Run a test that is a coroutine, on a loop of its own."""

    @functools.wraps(test)
    def run(**fixtures):
        asyncio.run(test(**fixtures))

    return run
