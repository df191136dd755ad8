"""The reaper: what it does when its supervisor, or the process that embeds the host, ends in this way or that."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from helpers import (
    PATIENCE_S,
    REPOSITORY,
    SOON_S,
    at_most,
    eventually,
    line_of,
    never,
    new_tag,
    program,
    state_of,
    stop,
    tagged,
)

from hostd.hosts import lock as runtime_lock
from hostd.hosts.launch import AT_ONCE, Order, reaper_command
from hostd.shell.reaper import collecting, names


@pytest.fixture
def tag(monkeypatch):
    value = new_tag()
    monkeypatch.setenv("KEPT", value)
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    return value


@pytest.fixture
def order():
    with contextlib.closing(Order()) as made:
        yield made


@pytest.fixture
def keep(tag, tmp_path):
    """Start a reaper of a stand-in for the supervisor, which runs `source`."""
    started = []

    def start(source, *, embedder_pid=None, order=None):
        embedded = embedder_pid and (embedder_pid, order.told_fd, order.order_fd)
        command = reaper_command(embedded=embedded, supervise=textwrap.dedent(source))
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, pass_fds=(embedded or [])[1:]))
        return started[-1]

    yield start
    for process in started:
        stop(process)
    for pid in tagged(tag, "KEPT"):
        os.kill(pid, signal.SIGKILL)


WAIT = "import time\nprint('up')\ntime.sleep(3600)\n"

LEAVE_DAEMONS = """
    import os, signal, sys, time

    for _ in range(3):
        read, write = os.pipe()
        if os.fork() == 0:
            os.setsid()
            if os.fork():
                os._exit(0)
            for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
                signal.signal(number, signal.SIG_IGN)
            os.write(write, b"x")
            os.closerange(0, 20)
            time.sleep(3600)
        os.read(read, 1)
    print("up")
    time.sleep(3600)
"""


DYING = "import os, signal; os.kill(os.getpid(), signal.{})"


@pytest.mark.parametrize(
    ("source", "code"),
    [
        *((f"raise SystemExit({code})", code) for code in (0, 7)),
        *((DYING.format(number.name), 128 + number) for number in (signal.SIGKILL, signal.SIGSEGV)),
    ],
)
def test_its_exit_code_is_its_supervisors_as_a_shell_would_have_it(keep, source, code):
    assert keep(source).wait(PATIENCE_S) == code


@pytest.mark.parametrize("number", names.FORWARDED)
def test_signals_are_passed_on(keep, number):
    kept = keep(f"""
        import signal
        signal.pthread_sigmask(signal.SIG_BLOCK, [{int(number)}])
        print("up")
        for _ in range(2):
            signal.sigwait([{int(number)}])
            print("heard")
        raise SystemExit(5)
    """)
    assert line_of(kept) == "up"
    for _ in range(2):
        kept.send_signal(number)
        assert line_of(kept) == "heard"
    assert kept.wait(PATIENCE_S) == 5


def test_a_supervisor_begins_with_what_was_ignored_of_two_signals_and_no_other_ignored_and_none_blocked(keep):
    stay = {signal.SIGHUP, signal.SIGINT}
    ignored = stay | {signal.SIGCHLD, signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR2, signal.SIGPIPE}
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ignored}
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR2})
    try:
        kept = keep("""
            import os, signal
            print(os.environ['HOSTD_REAPER_PID'], os.getppid(), os.getpgid(0) == os.getpid())
            usual = signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}  # which Python ignores
            print(*(signal.Signals(n).name for n in usual if signal.getsignal(n) == signal.SIG_IGN))
            print(signal.pthread_sigmask(signal.SIG_BLOCK, []), flush=True)
            signal.pause()
        """)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR2})
        for number, handler in before.items():
            signal.signal(number, handler)
    assert line_of(kept).split() == [str(kept.pid), str(kept.pid), "True"]
    assert set(line_of(kept).split()) == {number.name for number in stay}
    assert line_of(kept) == "set()"
    for number in stay:
        kept.send_signal(number)
    kept.terminate()
    assert kept.wait(PATIENCE_S) == 128 + signal.SIGTERM, "not of one that was ignored"


BEGINS = """
    import os, sys
    sys.stdout.reconfigure(line_buffering=True)
    own = {0, 1, 2, *(int(value) for name, value in os.environ.items() if name.startswith("HOSTD_") and "FD" in name)}
    print(sys.argv, [name for name in sys.modules if "reaper" in name], {*sys.path} - {*os.environ["USUAL_PATH"].split(":")})
    print({fd for fd in range(100) if os.path.exists(f"/proc/self/fd/{fd}")} - own, flush=True)
"""


def usual_path():
    command = [sys.executable, "-S", "-c", "import sys; print(':'.join(filter(None, sys.path)))"]
    return subprocess.check_output(command, text=True).strip()


def test_a_supervisor_begins_as_an_interpreter_of_its_own_would(keep, monkeypatch):
    monkeypatch.setenv("USUAL_PATH", usual_path())
    kept = keep(BEGINS)
    assert (line_of(kept), line_of(kept)) == ("['-c'] [] set()", "set()")


def test_the_supervisor_of_a_shared_host_has_nothing_of_the_door_but_what_is_its_own(tag, tmp_path, monkeypatch):
    monkeypatch.setenv("USUAL_PATH", usual_path())
    lock_fd = runtime_lock.take(tmp_path / "r")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        command = reaper_command(shared=(theirs.fileno(), lock_fd, tmp_path / "r"), supervise=textwrap.dedent(BEGINS))
        monkeypatch.setenv("HOSTD_SUPERVISOR_LOCK_FD", str(lock_fd))
        said = subprocess.check_output(command, pass_fds=[theirs.fileno(), lock_fd], text=True).splitlines()
        os.close(lock_fd)
    assert said == ["['-c'] [] set()", "set()"]
    eventually(lambda: not tagged(tag, "KEPT"), "the reaper has ended")


STREAMS = """
    import os, sys
    print("lost", file=sys.stdout), print("lost", file=sys.stderr)
    with open(os.environ["SAYS"], "w") as file:
        file.write(repr(sys.stdin.read()))
"""


def test_a_supervisor_has_streams_where_its_starter_has_closed_them(tmp_path, monkeypatch):
    monkeypatch.setenv("SAYS", str(tmp_path / "says"))
    command = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *reaper_command(supervise=textwrap.dedent(STREAMS))]
    assert subprocess.run(command, timeout=PATIENCE_S, check=False).returncode == 0
    assert (tmp_path / "says").read_text() == "''"


def test_at_once_ends_a_supervisor_that_does_not_want_to(keep, tag):
    kept = keep("import signal\nfor n in (1, 2, 3, 15):\n    signal.signal(n, signal.SIG_IGN)\n" + WAIT)
    assert line_of(kept) == "up"
    kept.terminate()
    with at_most(SOON_S, "an end at once"):
        kept.send_signal(AT_ONCE)
        assert kept.wait(PATIENCE_S) == 128 + 9
    assert tagged(tag, "KEPT") == set()


@pytest.mark.parametrize("end", ["killed", "by itself"])
def test_what_a_supervisor_leaves_is_ended_before_the_reaper(keep, tag, end):
    kept = keep(LEAVE_DAEMONS)
    assert line_of(kept) == "up"
    eventually(lambda: len(tagged(tag, "KEPT")) == 5, "those in between have ended")
    kept.send_signal(AT_ONCE if end == "killed" else signal.SIGTERM)
    kept.wait(PATIENCE_S)
    assert tagged(tag, "KEPT") == set(), "the reaper ended before its proof"


FLEE = """
    import os, time

    for line in range(2):
        if os.fork() == 0:
            for _ in range(10_000):  # a line of descent that never has two members for long
                if os.fork():
                    os._exit(0)
                if {is_far}:
                    os.setsid()
            open(os.environ["SURVIVED"], "w").close()
            os._exit(0)
"""


@pytest.mark.parametrize("is_far", [False, True], ids=["in one session", "in a new session each"])
def test_families_that_flee_by_forking_are_ended(keep, tag, tmp_path, monkeypatch, is_far):
    survived = tmp_path / "survived"
    monkeypatch.setenv("SURVIVED", str(survived))
    keep(FLEE.format(is_far=is_far)).wait(PATIENCE_S * 3)
    assert tagged(tag, "KEPT") == set()
    assert not survived.exists(), "they ended by themselves"


def test_many_helpers_are_collected_together():
    with program("""
        import os, signal
        from hostd.shell.reaper import collecting

        looks, count, look = 0, 400, collecting.children_of
        def children_of(parent):
            global looks
            looks += 1
            return look(parent)

        for _ in range(count):
            if os.fork() == 0:
                signal.pause()
        collecting.children_of = children_of
        print(collecting.kill_children(), look(os.getpid()), looks < count / 4, looks)
    """) as helpers:
        assert line_of(helpers).rpartition(" ")[0] == "[] [] True", "a look at all of them for the end of each"


ASKED_AGAIN = """
    import sys
    from hostd.shell.reaper import keeping, starting

    keeping.AT_LAST_S = 0.1
    status = starting.main("served")
    if status is not None:
        sys.exit(status)
    exec(sys.argv[1])
"""


@pytest.mark.parametrize(
    ("heeds", "code"),
    [("signal.SIG_DFL", signal.SIGTERM), ("signal.SIG_IGN", signal.SIGKILL)],
    ids=["heeds", "ignores"],
)
def test_a_stopped_supervisor_ends_when_its_reaper_is_asked_again(heeds, code):
    source = f"import os, signal\nsignal.signal(15, {heeds})\nprint(os.getpid())\nsignal.pause()\n"
    with program(ASKED_AGAIN, source) as kept:
        supervisor = int(line_of(kept))
        os.kill(supervisor, signal.SIGSTOP)
        eventually(lambda: state_of(supervisor) == "T", "it is stopped")
        kept.terminate()
        eventually(lambda: not is_pending(kept.pid, signal.SIGTERM), "the reaper has heard of the first")
        if heeds == "signal.SIG_DFL":
            eventually(lambda: is_pending(supervisor, signal.SIGTERM), "the supervisor has not")
        assert kept.poll() is None
        kept.terminate()
        assert kept.wait(PATIENCE_S) == 128 + code


def is_pending(pid, number):
    """Say whether a signal has been sent that the process has not taken yet."""
    found = re.search(r"^ShdPnd:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return found is not None and bool(int(found[1], 16) >> number - 1 & 1)


@pytest.mark.parametrize("how", ["killed", "by itself"])
def test_the_end_of_the_embedding_process_ends_everything(keep, tag, tmp_path, how):
    directory = tmp_path / "private"
    (directory / "state" / "logs").mkdir(parents=True)
    (directory / "state" / "logs" / "m.log").write_text("x")
    source = """
        import os, subprocess, sys
        from types import SimpleNamespace
        from hostd.hosts.launch import Order, reaper_command
        order = Order()
        kept = subprocess.Popen(
            reaper_command(embedded=(os.getpid(), order.told_fd, order.order_fd), supervise=sys.argv[2]),
            pass_fds=(order.told_fd, order.order_fd), stdout=subprocess.PIPE, text=True,
        )
        order.tell(SimpleNamespace(runtime_dir=sys.argv[1], to_json=lambda: "{}"))
        print(kept.pid, kept.stdout.readline().strip(), flush=True)
        sys.stdin.readline()
    """
    embedder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(source), directory, textwrap.dedent(LEAVE_DAEMONS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    with embedder:
        pid, up = line_of(embedder).split()
        assert up == "up"
        if how == "killed":
            embedder.kill()
        else:
            embedder.stdin.write("\n")
    eventually(lambda: not tagged(tag, "KEPT"), "everything ends with the embedding process")
    eventually(lambda: state_of(int(pid)) in ("", "Z"), "the reaper has ended")
    assert not directory.exists()


@pytest.mark.parametrize("embedder", ["gone already", "not its parent"])
def test_what_cannot_be_its_embedding_process_is_noticed(keep, order, embedder):
    with program("") as gone:
        gone.wait(PATIENCE_S)
    order.tell(SimpleNamespace(runtime_dir="d", to_json=lambda: "{}"))
    kept = keep("print('up')", embedder_pid=gone.pid if embedder == "gone already" else 1, order=order)
    assert kept.stdout.read() == "", "a host for a stranger"
    assert kept.wait(PATIENCE_S) == 1


SAY = """
    import os
    print(os.environ["HOSTD_SUPERVISOR_CONFIG"], flush=True)
"""


def test_it_waits_for_what_the_embedding_process_finds_out(keep, order):
    kept = keep(SAY, embedder_pid=os.getpid(), order=order)
    never(lambda: kept.poll() is not None, "it does not wait", for_s=0.3)
    config = "{" + "é" * (1 << 17) + "}"
    order.tell(SimpleNamespace(runtime_dir="no such directory", to_json=lambda: config))
    assert line_of(kept) == config
    assert kept.wait(PATIENCE_S) == 0


def test_the_end_of_the_embedding_process_is_noticed_before_it_has_told(order):
    """Another child of it may have the descriptors."""
    source = """
        import os, subprocess, sys, time
        from hostd.hosts.launch import reaper_command
        fds = [int(fd) for fd in sys.argv[1:]]
        print(subprocess.Popen(reaper_command(embedded=(os.getpid(), *fds)), pass_fds=fds).pid, flush=True)
        time.sleep(3600)
    """
    fds = order.told_fd, order.order_fd
    own = [sys.executable, "-c", textwrap.dedent(source), *map(str, fds)]
    with subprocess.Popen(own, stdout=subprocess.PIPE, text=True, pass_fds=fds, cwd=REPOSITORY) as embedder:
        pid = int(line_of(embedder))
        embedder.kill()
    eventually(lambda: state_of(pid) in ("", "Z"), "the reaper has ended")


def test_it_is_small_and_waits_without_using_the_processor(keep):
    """It lives as long as the host, for nothing but to wait."""
    kept = keep(WAIT)
    assert line_of(kept) == "up"
    process = psutil.Process(kept.pid)
    assert process.memory_info().rss < 24 << 20
    before, until_s = sum(process.cpu_times()[:2]), time.monotonic() + 0.3
    eventually(lambda: time.monotonic() > until_s, "a while has passed")
    assert sum(process.cpu_times()[:2]) - before <= 0.02


def test_children_are_found_whatever_they_are_called(tmp_path):
    odd = tmp_path / "a) R 1 (b"
    odd.symlink_to("/bin/sleep")
    with subprocess.Popen([odd, "3600"]) as child:
        eventually(lambda: Path(f"/proc/{child.pid}/comm").read_text().startswith("a)"), "the name is taken on")
        assert collecting.children_of(os.getpid()) == [child.pid]
        assert collecting._children_by_table(os.getpid()) == [child.pid]
        child.kill()


def test_a_directory_is_removed_with_everything_and_nothing_beside_it(tmp_path):
    keepsake = tmp_path / "keepsake"
    keepsake.mkdir()
    (keepsake / "file").write_text("precious")
    directory = tmp_path / "private"
    (directory / "a" / "b").mkdir(parents=True)
    (directory / "a" / "b" / "file").write_text("")
    (directory / "link to a directory").symlink_to(keepsake)
    (directory / "link to a file").symlink_to(keepsake / "file")
    (directory / "dangling").symlink_to("nowhere")
    collecting.remove(str(directory))
    assert not directory.exists()
    assert (keepsake / "file").read_text() == "precious"
    collecting.remove(str(directory))
