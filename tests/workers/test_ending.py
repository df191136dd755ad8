"""However a worker ends, it says why, on its log and to its supervisor as far as it still can, and its process ends."""

import signal

import pytest

from hostd_workers.main import HOLD_S, QUICK_CALLS, QUICK_S, Pace
from hostd_workers.process.ending import EXIT_FATAL
from hostd_workers.wire import messages as msg
from hostd_workers.wire.codec import decode

MODEL = """
    import asyncio, gc, os, signal, sys, threading, time

    def stay():
        threading.Thread(target=threading.Event().wait).start()

    class Broken:
        def write(self, *_):
            raise GeneratorExit

        flush = fileno = write

    def hang(*_):
        threading.Event().wait()

    class Model:
        def echo(self, x):
            return x

        def stay_and_exit(self, code):
            stay()
            sys.exit(code)

        def stay_and_burst(self):
            stay()
            raise KeyboardInterrupt("burst")

        def interrupt(self):
            signal.raise_signal(signal.SIGINT)

        def close_socket(self):
            import zmq
            for thing in gc.get_objects():
                if isinstance(thing, zmq.backend.Socket):
                    thing.close()

        def close_descriptors(self):
            os.closerange(3, 1000)

        def break_output_and_exit(self, code):
            sys.stdout = sys.stderr = Broken()
            sys.excepthook = hang
            sys.exit(code)

        def tell_wrong_and_burst(self):
            def wrong(*_):
                raise GeneratorExit
            sys.excepthook = wrong
            raise KeyboardInterrupt("burst")

        def hang_at_the_end(self):
            import hostd_workers.process.ending
            hostd_workers.process.ending.ENDING_S = 0.1
            sys.excepthook = hang
            raise KeyboardInterrupt

        def shrink_the_stack(self):
            for limit in range(1, 100):
                try:
                    return sys.setrecursionlimit(limit)
                except RecursionError:
                    pass

        def print_and_exit(self):
            print("printed last", end="")
            import atexit
            atexit.register(hang)
            sys.exit(3)

        def close_stderr(self):
            os.close(2)

        def items(self):
            try:
                yield 1
                yield 2
            finally:
                raise ValueError("nobody hears this")

    class Later(Model):
        async def later(self, x):
            return x

        async def stop(self):
            asyncio.get_running_loop().stop()
            return "stopped"

        async def exit_later(self, code):
            asyncio.get_running_loop().call_soon(sys.exit, code)
            await asyncio.Event().wait()

        async def close_socket_later(self):
            self.close_socket()

        async def close_selector(self):
            os.close(asyncio.get_running_loop()._selector.fileno())

        async def swallow_and_exit(self, code):
            async def swallow():
                while True:
                    try:
                        await asyncio.Event().wait()
                    except asyncio.CancelledError:
                        pass
            task = asyncio.create_task(swallow())
            await asyncio.sleep(0)
            asyncio.get_running_loop().run_in_executor(None, hang)
            sys.exit(code)

    def load(path):
        return KIND()
"""
BOTH = pytest.mark.parametrize("kind", ["Model", "Later"])


@pytest.fixture
def serving(supervisor):
    """Have a worker serve a model of a kind."""

    def serve(kind, **start):
        supervisor.serve(MODEL.replace("KIND", kind), **start)
        return supervisor

    return serve


# What is called; the last words, the exit code, and what the log says; None: it can or need not say any.
ENDS = {
    "stay_and_exit": (9, "SystemExit: 9", 9, ""),
    "stay_and_burst": (None, "KeyboardInterrupt: burst", EXIT_FATAL, "KeyboardInterrupt: burst"),
    "break_output_and_exit": (4, "SystemExit: 4", 4, ""),
    "tell_wrong_and_burst": (None, "KeyboardInterrupt: burst", EXIT_FATAL, ""),
    "shrink_the_stack": (None, "RecursionError", EXIT_FATAL, ""),
    "close_socket": (None, None, EXIT_FATAL, "Socket operation on non-socket"),
    "close_descriptors": (None, None, -signal.SIGABRT, "Fatal Python error: Aborted"),  # by ZeroMQ
    "hang_at_the_end": (None, None, 1, "in hang"),  # the code is faulthandler's
}
LATER = {  # of coroutines only
    "exit_later": (7, "SystemExit: 7", 7, ""),
    "swallow_and_exit": (7, "SystemExit: 7", 7, ""),
    "close_socket_later": (None, None, EXIT_FATAL, "Socket operation on non-socket"),
}
WAYS = [("Model", method) for method in ENDS] + [("Later", method) for method in ENDS | LATER]


@pytest.mark.parametrize(("kind", "method"), WAYS)
def test_a_worker_ends_whatever_the_model_does_and_says_why(serving, kind, method):
    argument, words, exit_code, log = (ENDS | LATER)[method]
    supervisor = serving(kind)
    supervisor.call(method, *([] if argument is None else [argument]))
    if words is not None:
        error = supervisor.last_words()
        assert error.message.startswith(words)
        assert f"in {method}" in error.traceback or method in ("exit_later", "shrink_the_stack")
    code, said = supervisor.ended()
    assert code == exit_code
    assert log in said


def test_a_load_that_exits_ends_it_though_a_thread_lives_on(supervisor):
    supervisor.start()
    supervisor.receive()
    words = supervisor.load(f"{MODEL}\n    stay()\n    sys.exit('no weights')\n")
    assert (words.kind, msg.unpack_map(words)["message"]) == (msg.LAST_WORDS, "SystemExit: no weights")
    code, said = supervisor.ended()
    assert (code, said.strip()) == (1, "no weights")


def test_a_load_may_raise_anything_and_is_answered(supervisor):
    supervisor.start()
    supervisor.receive()
    for raised in ("GeneratorExit('x')", "asyncio.CancelledError('x')", "Own('x')"):
        answer = supervisor.load(f"import asyncio\nclass Own(BaseException): pass\nraise {raised}\n")
        assert answer.kind == msg.ERROR
        assert msg.unpack_error(answer).message.startswith("loading failed: ")


@BOTH
def test_an_interrupt_ends_it(serving, kind):
    supervisor = serving(kind)
    supervisor.call("interrupt")
    answer = supervisor.receive()  # to the call perhaps, which may have come first
    assert msg.LAST_WORDS in (answer.kind, answer.kind != msg.LAST_WORDS and supervisor.receive().kind)
    assert supervisor.ended()[0] == EXIT_FATAL


def test_a_selector_that_the_model_closes_ends_it_with_last_words(serving):
    supervisor = serving("Later")
    supervisor.call("close_selector")
    assert supervisor.receive().kind == msg.RESULT
    assert "Bad file descriptor" in supervisor.last_words().message
    assert supervisor.ended()[0] == EXIT_FATAL


@BOTH
def test_what_was_printed_is_written_and_nothing_that_python_would_run_at_its_end_is_waited_for(
    serving, kind, tmp_path
):
    with (tmp_path / "printed").open("wb") as file:
        supervisor = serving(kind, stdout=file)
    supervisor.call("print_and_exit")
    assert supervisor.last_words().message == "SystemExit: 3"
    assert supervisor.ended()[0] == 3
    assert (tmp_path / "printed").read_text() == "printed last"


@BOTH
def test_a_closed_standard_error_costs_no_more_than_what_would_be_written_there(serving, kind):
    supervisor = serving(kind)
    assert supervisor.result("close_stderr") is None
    supervisor.call("items", kind=msg.STREAM, id=5)
    assert [supervisor.receive().kind for _ in range(2)] == [msg.ITEM, msg.ITEM]
    supervisor.send(msg.pack_credit(5, 1))
    assert supervisor.receive().kind == msg.ERROR
    assert supervisor.result("echo", 1) == 1


def test_a_loop_that_the_model_stops_goes_on_and_the_log_says_so_once(serving):
    supervisor = serving("Later")
    for _ in range(3):
        assert supervisor.result("stop") == "stopped"
        assert (supervisor.result("later", 5), supervisor.result("echo", 6)) == (5, 6)
    supervisor.call("stay_and_exit", 0)
    supervisor.last_words()
    code, said = supervisor.ended()
    assert (code, said.count("the model stopped the event loop")) == (0, 1)


# Answers that wait for company


def test_answers_that_wait_for_company_leave_before_the_last_words(serving):
    supervisor = serving("Model")
    calls = QUICK_CALLS + 50
    for id in range(1, calls):
        supervisor.call("echo", id, id=id)
    supervisor.call("stay_and_exit", 3, id=calls)
    answers = []
    while not answers or answers[-1].kind != msg.LAST_WORDS:
        answers += supervisor.receive_all()
    assert [(answer.id, decode(answer.body)) for answer in answers[:-1]] == [(id, id) for id in range(1, calls)]
    assert supervisor.ended()[0] == 3


def test_an_answer_waits_only_among_quick_calls_and_never_for_long():
    pace = Pace()
    for _ in range(QUICK_CALLS):
        assert not pace.is_quick
        pace.may_hold(0.0)
    assert pace.is_quick
    took_s = QUICK_S / 2
    held = [pace.may_hold(took_s) for _ in range(100)]
    longest = max(len(run) for run in "".join("h" if h else " " for h in held).split())
    assert longest * took_s <= HOLD_S
    assert not all(held)
    assert not pace.may_hold(2 * QUICK_S)
    assert not pace.is_quick, "after one that was slow none waits until many were quick"
