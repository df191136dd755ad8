"""Calls of models over workers: caikit sees what it sees of models in its own process."""

import os
import threading
import time

import pytest
from caikit_rig import (
    AbortableContext,
    AbortedException,
    ActionAborter,
    DataStream,
    ThreadInterrupter,
    alone,
    grpc,
    outcome,
    sample,
)
from helpers import eventually

pytestmark = [pytest.mark.caikit, pytest.mark.filterwarnings("ignore")]

QUESTION = sample.Question("Ada", ["a", "b"])
BARE = sample.Question("Ada")


@pytest.fixture(scope="module")
def both(model, path):
    return model, alone(path)


@pytest.mark.parametrize("question", [QUESTION, BARE], ids=["all fields", "fields that are None"])
def test_results_are_those_of_caikit_alone(both, question):
    over, within = (method.run(question) for method in both)
    assert over.pid != within.pid == os.getpid()
    over.pid = within.pid = None
    assert over.to_json() == within.to_json()
    assert type(over) is type(within)


def test_fields_that_are_none_stay_none(both):
    over, within = (one.run_stream_in(DataStream.from_iterable([BARE])) for one in both)
    assert over.to_json() == within.to_json()
    assert over.parts is None


@pytest.mark.parametrize("kind", sorted(sample.MADE))
def test_what_a_method_raises_is_raised_with_its_type_text_and_code(both, kind):
    over, within = (outcome(one.run, QUESTION, raised=kind) for one in both)
    assert over == within


def test_an_error_shows_where_in_the_worker_it_was_raised(model):
    with pytest.raises(RuntimeError) as raised:
        model.run(QUESTION, raised="runtime")
    assert "hostd_caikit_sample" in str(raised.value.__cause__)


@pytest.mark.parametrize("kind", [None, "not found", "own"])
def test_streams_come_item_by_item_and_end_as_they_do_alone(both, kind):
    over, within = (outcome(one.run_stream_out, QUESTION, raised=kind) for one in both)
    assert over == within


def test_a_data_stream_can_be_iterated_again_and_left_early(model):
    stream = model.run_stream_out(QUESTION)
    assert isinstance(stream, DataStream)
    next(iter(stream))
    assert [reply.text for reply in stream] == [reply.text for reply in stream]


def test_a_stream_that_goes_in_may_be_long_and_iterated_twice(both):
    questions = [sample.Question(str(number)) for number in range(500)]
    over, within = (one.run_stream_in(DataStream.from_iterable(questions)) for one in both)
    assert over.to_json() == within.to_json()
    assert over.score == 500


def test_what_a_stream_that_goes_in_raises_the_model_sees(both):
    def broken():
        yield QUESTION
        raise ValueError("the client is gone")

    over, within = (outcome(one.run_stream_in, DataStream(broken)) for one in both)
    assert over == within


def test_streams_in_both_directions_are_alive(model):
    answered = threading.Event()

    def questions():
        yield QUESTION
        assert answered.wait(60)  # what comes next waits for the answer to what came before
        yield BARE

    replies = model.run_bidi(DataStream(questions))
    assert next(replies).text == "Hi Ada"
    answered.set()
    assert next(replies).text == "Hi Ada"
    assert next(replies, None) is None


def test_the_object_is_of_the_models_class_and_knows_what_it_knows(both):
    over, within = both
    assert isinstance(over, sample.Answerer)
    for name in ("MODULE_ID", "MODULE_CLASS", "PRODUCER_ID", "TRAIN_SIGNATURE", "tasks"):
        assert getattr(type(over), name) == getattr(type(within), name)
    assert over.metadata == within.metadata
    assert (over.greeting, over.shout) == ("Hi", "HI")
    assert not hasattr(over, "nothing_of_it")
    assert over.get_inference_signature(input_streaming=False, output_streaming=True).method_name == "run_stream_out"


def test_batches_and_files_are_the_models(both, tmp_path):
    over, within = both
    assert [reply.text for reply in over.run_batch([QUESTION, BARE])] == ["Hi Ada", "Hi Ada"]
    over.save(str(tmp_path / "again"))
    assert alone(str(tmp_path / "again")).greeting == within.greeting


def test_a_task_method_sees_the_metadata_of_its_request(model):
    class Context(grpc.ServicerContext):
        def __init__(self):
            pass

        def invocation_metadata(self):
            return (("who", "!"),)

        def peer(self):
            return "ipv4:127.0.0.1:1"

        def time_remaining(self):
            return None

    Context.__abstractmethods__ = frozenset()
    assert model.run(QUESTION, context=Context()).text == "Hi Ada!"


def test_calls_of_one_model_go_on_at_the_same_time(model):
    began = time.monotonic()
    threads = [threading.Thread(target=model.run, args=(QUESTION,), kwargs={"sleep_s": 2.0}) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - began < 6


def test_an_argument_that_cannot_cross_is_named(model):
    with pytest.raises(TypeError, match="lock cannot cross"):
        model.run(threading.Lock())


class Client(ActionAborter):
    """A client that goes away when it is told to."""

    def must_abort(self):
        return False

    def set_context(self, context):
        self.context = context

    def unset_context(self):
        pass


def test_a_call_whose_client_goes_away_ends_here_and_in_the_worker(model):
    interrupter = ThreadInterrupter()
    interrupter.start()
    client, seen, began = Client(), [], threading.Event()

    def work():
        try:
            with AbortableContext(client, interrupter):
                began.set()
                model.run(QUESTION, sleep_s=600.0)
        except BaseException as error:  # noqa: BLE001 - it may be anything
            seen.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    began.wait()
    eventually(lambda: in_flight(model) == 1, "the call is in flight")
    client.context.abort()
    thread.join(60)
    interrupter.stop()
    assert [type(error) for error in seen] == [AbortedException]
    eventually(lambda: in_flight(model) == 0, "the worker has ended the call, too")
    assert model.run(QUESTION).text == "Hi Ada"


def in_flight(model):
    """Return how many threads of the worker are in the model's `run`."""
    hosted = model._hostd.hosted
    stacks = hosted.wait(hosted.client.model_stacks(model._hostd.id))
    lines = [line for text in stacks.values() for line in text.split("\n")]
    return sum("hostd_caikit_sample" in line and line.endswith(" in run") for line in lines)


def test_a_call_in_a_worker_that_dies_is_unavailable_and_the_next_one_loads_the_model_anew(manager, path):
    model = manager.load_model("dying", path, "any").model()
    pid, seen = model.run(QUESTION).pid, []
    thread = threading.Thread(target=lambda: seen.append(outcome(model.run, QUESTION, sleep_s=600.0)))
    thread.start()
    eventually(lambda: in_flight(model) == 1, "the call is in flight")
    os.kill(pid, 9)
    thread.join(60)
    assert seen[0][2] is grpc.StatusCode.UNAVAILABLE
    assert model.run(QUESTION).pid != pid
