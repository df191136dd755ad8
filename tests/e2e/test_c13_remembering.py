"""C13: what was measured is remembered beyond the end of a host, by all hosts of the user, and whatever becomes of it."""

import contextlib
import os
import signal
import sqlite3
import stat

from helpers import eventually

import hostd
from hostd import paths

UNSAMPLED = {"sample_period_s": 3600}
"""What a host says of a size is what it remembers."""


def estimate_of(client, path):
    estimate = client.estimate_model_size("any", path)
    return int(estimate), estimate.source


def test_c13_what_one_host_has_measured_all_hosts_of_the_user_remember(model_dir):
    """Hosts that run beside it, embedded ones that leave no directory, and after a kill."""
    path = model_dir()
    with hostd.Host() as beside, hostd.Host(memory=UNSAMPLED) as embedded:
        remembered = (embedded.client().load_model("m", path).size, "remembered")
        eventually(lambda: estimate_of(beside.client(), path) == remembered, "the other one knows", within_s=60)
        os.kill(embedded.pid, signal.SIGKILL)
    with hostd.Host() as restarted:
        assert estimate_of(restarted.client(), path) == remembered
    for remember in ("none", "host"):
        with hostd.Host(memory={"remember": remember}) as alone:
            assert estimate_of(alone.client(), path)[1] == "estimated", "remembered, but not by this host"
    file = paths.shared_state_dir("") / "sizes.sqlite"
    assert [stat.S_IMODE(found.stat().st_mode) for found in (file.parent, file)] == [0o700, 0o600]


def test_c13_a_memory_that_is_held_for_ever_or_damaged_stops_nothing_and_is_made_anew(model_dir):
    path, file = model_dir(), paths.shared_state_dir("") / "sizes.sqlite"
    with hostd.Host() as host:
        host.client().load_model("m", path)
        for part in ("-wal", "-shm", ""):  # while it runs
            file.with_name(file.name + part).write_bytes(os.urandom(5000))
        other = model_dir("load = lambda path: print\n")
        host.client().load_model("n", other)
        assert estimate_of(host.client(), other)[0] > 0
    for left in file.parent.glob("sizes.sqlite*"):
        left.unlink()
    file.write_bytes(os.urandom(5000))
    with hostd.Host(memory=UNSAMPLED) as host:
        assert estimate_of(host.client(), path)[1] == "estimated"
        remembered = (host.client().load_model("m", path).size, "remembered")
        eventually(lambda: estimate_of(host.client(), path) == remembered, "it is remembered again")
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        with hostd.Host() as host:
            assert host.client().load_model("m", path).predict(1) == 1
    with hostd.Host() as host:
        assert estimate_of(host.client(), path) == remembered, "the fresh memory must be kept too"


def test_c13_a_small_model_does_not_wait_until_a_big_directory_is_known(client, model_dir):
    """Seven gigabytes are read for its digest; before, the small one stood behind all of them."""
    big = model_dir()
    for number in range(120):
        with open(f"{big}/weights-{number}.bin", "wb") as file:
            file.truncate(60 << 20)
    client.load_model("big", big, wait=False)
    assert client.load_model("small", model_dir()).predict(1) == 1
    assert client.get_model("big").state == "LOADING"
    assert "is looked up" in client.explain_model("big")["reason"]
    assert client.unload_model("big").processes == 0
