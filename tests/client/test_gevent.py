"""Programs in which gevent has replaced the threads: told at once, and the way out that the error names works."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fake_host import FakeHost
from programs import run

Fake = Callable[..., FakeHost]

pytest.importorskip("gevent")


def test_a_client_under_gevents_threads_says_so_and_what_to_do(endpoint: str, fake: Fake) -> None:
    fake()
    code = """
        from gevent import monkey
        monkey.patch_all()
        import asyncio, sys
        import hostd

        for connect in (hostd.connect, lambda endpoint: asyncio.run(hostd.AsyncClient.connect(endpoint))):
            try:
                connect(sys.argv[1])
            except hostd.FailedPreconditionError as error:
                assert "gevent has replaced the threads" in error.message, error
                assert "patch_all(thread=False)" in error.message, error
                print("refused")
    """
    assert run(code, endpoint) == "refused\nrefused\n"


def test_the_client_works_in_threads_beside_greenlets(endpoint: str, fake: Fake) -> None:
    fake()
    code = """
        from gevent import monkey
        monkey.patch_all(thread=False)
        import sys
        import gevent
        import hostd

        with hostd.connect(sys.argv[1]) as client:
            pool = gevent.get_hub().threadpool
            calls = [gevent.spawn(pool.apply, client.call, ("m", "echo", (n,), {}, 20)) for n in range(20)]
            gevent.joinall(calls, raise_error=True)
            assert [call.value for call in calls] == list(range(20))
    """
    run(code, endpoint)
