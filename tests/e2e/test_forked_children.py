"""A child that a model forks ends where it leaves the model's code, whatever it leaves it with; the worker serves on."""

import pytest
from helpers import eventually, lines_of, state_of

FORKS = """
    import asyncio, os, sys, threading

    def fork(how, told):
        pid = os.fork()
        if pid:
            _, status = os.waitpid(pid, 0)
            with open(told, "a") as file:
                file.write(f"{pid} {os.waitstatus_to_exitcode(status)}\\n")
            return
        if how == "raises":
            raise ValueError("the child's own error")
        if how == "exits":
            sys.exit(7)
        if how == "exits with words":
            sys.exit("the child's last words")

    def advance(told):
        with open(told + ".advanced", "a") as file:
            file.write(f"{os.getpid()}\\n")
        yield os.getpid()

    class Model:
        def plain(self, how, told):
            fork(how, told)
            return os.getpid()

        def iterator(self, how, told):
            fork(how, told)
            return advance(told)

        def items(self, how, told):
            fork(how, told)
            yield os.getpid()

        def closing(self, how, told):
            try:
                yield os.getpid()
                yield os.getpid()
            finally:
                fork(how, told)

        def thread(self, how, told):
            thread = threading.Thread(target=fork, args=(how, told))
            thread.start()
            thread.join()
            return os.getpid()

        def pid(self):
            return os.getpid()

    class Async(Model):
        async def coroutine(self, how, told):
            fork(how, told)
            return os.getpid()

        async def awaits(self, how, told):
            fork(how, told)
            await asyncio.sleep(0.001)
            return os.getpid()

        async def later(self, how, told):
            async def work():
                fork(how, told)
            await asyncio.create_task(work())
            return os.getpid()

        async def executor(self, how, told):
            await asyncio.to_thread(fork, how, told)
            return os.getpid()

        async def aitems(self, how, told):
            yield os.getpid()
            fork(how, told)
            yield os.getpid()

    def load(path, *, asynchronous=False, how=None, told=None):
        if how is not None:
            fork(how, told)
        return Async() if asynchronous else Model()
"""
LEFT_WITH = {"returns": 0, "raises": 1, "exits": 7, "exits with words": 1}
SAID = ("ValueError: the child's own error", "the child's last words")
PLAIN = ("plain", "iterator", "items", "closing", "thread")
ASYNC = ("coroutine", "awaits", "later", "executor", "aitems")
STREAMS = ("iterator", "items", "closing", "aitems")


def code_of(method, how):
    """Return the exit code of a child that leaves the method so."""
    if method == "thread":
        return 0  # Python's own way to end a process when its last thread ends, and it tells of no exit in one
    if method == "awaits" and how == "returns":
        return 1  # there is no loop in a child (RuntimeError)
    return LEFT_WITH[how]


@pytest.mark.parametrize("asynchronous", [False, True], ids=["plain", "on a loop"])
def test_a_forked_child_never_becomes_a_second_worker(shared, model_dir, tmp_path, asynchronous):
    model = shared.load_model("m", model_dir(FORKS), options={"asynchronous": asynchronous})
    worker = model.pid()
    for how in LEFT_WITH:
        for method in (*PLAIN, *(ASYNC if asynchronous else ())):
            told = tmp_path / f"{method} {how}"
            if method in STREAMS:
                answers = set(getattr(model.stream, method)(how, str(told)))
            else:
                answers = {getattr(model, method)(how, str(told))}
            assert answers == {worker}, f"{method}, {how}: only the worker answers"
            ((child, code),) = [line.split() for line in eventually(lambda told=told: lines_of(told), "it ended")]
            assert int(code) == code_of(method, how), f"{method}, {how}"
            assert state_of(int(child)) == ""
        assert lines_of(tmp_path / f"iterator {how}.advanced") == [str(worker)], "a child goes no further"
    assert model.pid() == worker
    said = shared.model_logs("m")
    assert all(said.count(words) >= len(PLAIN) - 1 for words in SAID)


def test_nor_does_one_that_is_forked_by_a_load(shared, model_dir, tmp_path):
    for how, expected in LEFT_WITH.items():
        told = tmp_path / how
        model = shared.load_model(f"m {how}", model_dir(FORKS), options={"how": how, "told": str(told)})
        ((child, code),) = [line.split() for line in lines_of(told)]
        assert (int(code), state_of(int(child))) == (expected, "")
        assert model.pid() == model.info.workers[0].pid
