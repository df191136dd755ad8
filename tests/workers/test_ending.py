"""However a worker ends, it says why, on its log and to its supervisor as far as it still can, and its process ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from supervisor_rig import ended

from hostd_workers.main import QUICK_CALLS
from hostd_workers.process.ending import EXIT_FATAL
from hostd_workers.wire import messages as msg
from hostd_workers.wire.codec import decode

if TYPE_CHECKING:
    from supervisor_rig import Supervisor

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
                if isinstance(thing, zmq.Socket):
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


def serving(supervisor: Supervisor, kind: str) -> Supervisor:
    supervisor.start()
    supervisor.receive()
    assert supervisor.load(MODEL.replace("KIND", kind)).kind == msg.LOADED
    return supervisor


def last_words(supervisor: Supervisor) -> str:
    words = supervisor.receive()
    assert words.kind == msg.LAST_WORDS
    return str(msg.unpack_map(words)["message"])


@BOTH
def test_a_thread_that_lives_on_does_not_keep_a_worker_that_exits(supervisor: Supervisor, kind: str) -> None:
    serving(supervisor, kind).call("stay_and_exit", 9)
    assert last_words(supervisor) == "SystemExit: 9"
    assert ended(supervisor.started[0])[0] == 9


@BOTH
def test_nor_one_that_fails(supervisor: Supervisor, kind: str) -> None:
    serving(supervisor, kind).call("stay_and_burst")
    assert last_words(supervisor) == "KeyboardInterrupt: burst"
    code, said = ended(supervisor.started[0])
    assert code == EXIT_FATAL
    assert "KeyboardInterrupt: burst" in said


def test_nor_one_whose_load_exits(supervisor: Supervisor) -> None:
    supervisor.start()
    supervisor.receive()
    source = f"{MODEL}\n    stay()\n    sys.exit('no weights')\n"
    words = supervisor.load(source)
    assert (words.kind, msg.unpack_map(words)["message"]) == (msg.LAST_WORDS, "SystemExit: no weights")
    code, said = ended(supervisor.started[0])
    assert (code, said.strip()) == (1, "no weights")


def test_a_load_may_raise_anything_and_is_answered(supervisor: Supervisor) -> None:
    supervisor.start()
    supervisor.receive()
    for raised in ("GeneratorExit('x')", "asyncio.CancelledError('x')", "Own('x')"):
        source = f"import asyncio\nclass Own(BaseException): pass\nraise {raised}\n"
        answer = supervisor.load(source)
        assert answer.kind == msg.ERROR
        assert msg.unpack_error(answer).message.startswith("loading failed: ")


@BOTH
def test_an_interrupt_ends_it(supervisor: Supervisor, kind: str) -> None:
    serving(supervisor, kind).call("interrupt")
    answers = [supervisor.receive()]
    if answers[0].kind != msg.LAST_WORDS:
        answers.append(supervisor.receive())
    assert answers[-1].kind == msg.LAST_WORDS
    assert ended(supervisor.started[0])[0] == EXIT_FATAL


@pytest.mark.parametrize(
    ("kind", "method"), [("Model", "close_socket"), ("Later", "close_socket"), ("Later", "close_socket_later")]
)
def test_a_socket_that_the_model_closes_ends_it_with_words_in_its_log(
    supervisor: Supervisor, kind: str, method: str
) -> None:
    serving(supervisor, kind).call(method)
    code, said = ended(supervisor.started[0])
    assert code == EXIT_FATAL
    assert "Socket operation on non-socket" in said


@BOTH
def test_closed_descriptors_end_it_with_words_in_its_log(supervisor: Supervisor, kind: str) -> None:
    serving(supervisor, kind).call("close_descriptors")
    code, said = ended(supervisor.started[0])
    assert code < 0, "ZeroMQ aborts"
    assert "Fatal Python error: Aborted" in said


def test_a_selector_that_the_model_closes_ends_it_with_last_words(supervisor: Supervisor) -> None:
    serving(supervisor, "Later").call("close_selector")
    assert supervisor.receive().kind == msg.RESULT
    assert "Bad file descriptor" in last_words(supervisor)
    assert ended(supervisor.started[0])[0] == EXIT_FATAL


@BOTH
def test_output_that_cannot_be_written_keeps_neither_last_words_nor_the_end(supervisor: Supervisor, kind: str) -> None:
    serving(supervisor, kind).call("break_output_and_exit", 4)
    assert last_words(supervisor) == "SystemExit: 4"
    assert ended(supervisor.started[0])[0] == 4


@BOTH
def test_nor_does_a_hook_that_raises(supervisor: Supervisor, kind: str) -> None:
    serving(supervisor, kind).call("tell_wrong_and_burst")
    assert last_words(supervisor) == "KeyboardInterrupt: burst"
    assert ended(supervisor.started[0])[0] == EXIT_FATAL


@BOTH
def test_an_end_that_hangs_has_a_limit_and_says_where(supervisor: Supervisor, kind: str) -> None:
    serving(supervisor, kind).call("hang_at_the_end")
    code, said = ended(supervisor.started[0])
    assert code == 1, "faulthandler's own"
    assert "in hang" in said


@BOTH
def test_what_was_printed_is_written_and_nothing_that_python_would_run_at_its_end_is_waited_for(
    supervisor: Supervisor, kind: str
) -> None:
    printed = supervisor.directory / "printed"
    with printed.open("wb") as file:
        supervisor.start(stdout=file)
    supervisor.receive()
    supervisor.load(MODEL.replace("KIND", kind))
    supervisor.call("print_and_exit")
    assert last_words(supervisor) == "SystemExit: 3"
    assert ended(supervisor.started[0])[0] == 3
    assert printed.read_text() == "printed last"


def test_answers_that_wait_for_company_leave_before_the_last_words(supervisor: Supervisor) -> None:
    """After many quick calls an answer may wait for the next one."""
    serving(supervisor, "Model")
    calls = QUICK_CALLS + 50
    for id in range(1, calls):
        supervisor.call("echo", id, id=id)
    supervisor.call("stay_and_exit", 3, id=calls)
    answers = []
    while not answers or answers[-1].kind != msg.LAST_WORDS:
        answers += supervisor.receive_all()
    assert [(answer.id, decode(answer.body)) for answer in answers[:-1]] == [(id, id) for id in range(1, calls)]
    assert ended(supervisor.started[0])[0] == 3


@BOTH
def test_a_stack_that_is_too_small_to_answer_ends_it_with_last_words(supervisor: Supervisor, kind: str) -> None:
    serving(supervisor, kind).call("shrink_the_stack")
    assert last_words(supervisor).startswith("RecursionError")
    assert ended(supervisor.started[0])[0] == EXIT_FATAL


@BOTH
def test_a_closed_standard_error_costs_no_more_than_what_would_be_written_there(
    supervisor: Supervisor, kind: str
) -> None:
    serving(supervisor, kind)
    assert supervisor.result("close_stderr") is None
    supervisor.call("items", kind=msg.STREAM, id=5)
    assert [supervisor.receive().kind for _ in range(2)] == [msg.ITEM, msg.ITEM]
    supervisor.send(msg.pack_credit(5, 1))
    assert supervisor.receive().kind == msg.ERROR
    assert supervisor.result("echo", 1) == 1


# The loop of a model with coroutines


def test_a_loop_that_the_model_stops_goes_on_and_the_log_says_so_once(supervisor: Supervisor) -> None:
    serving(supervisor, "Later")
    for _ in range(3):
        assert supervisor.result("stop") == "stopped"
        assert supervisor.result("later", 5) == 5
        assert supervisor.result("echo", 6) == 6
    supervisor.call("stay_and_exit", 0)
    last_words(supervisor)
    code, said = ended(supervisor.started[0])
    assert code == 0
    assert said.count("the model stopped the event loop") == 1


@pytest.mark.parametrize("method", ["exit_later", "swallow_and_exit"])
def test_neither_tasks_nor_threads_of_the_loop_keep_a_worker_that_exits(supervisor: Supervisor, method: str) -> None:
    serving(supervisor, "Later").call(method, 7)
    assert last_words(supervisor) == "SystemExit: 7"
    assert ended(supervisor.started[0])[0] == 7
