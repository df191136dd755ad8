"""The supervisor's side of workers: what they say is checked, and what the core wants reaches them."""

import itertools

import pytest
import zmq
from transport_rig import Transport

import hostd
from hostd.config.loading import load_config
from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.shell.transport.lanes import LanePlaces
from hostd.shell.transport.workers import Backend
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.codec import encode

WORKER = ev.WorkerId(4)
MODEL = ev.ModelId("m")
METHOD = {"name": "predict", "streams": False, "is_async": False, "signature": "(x)", "doc": ""}
SIGNATURE = {
    "inputs": [["x", "FP32", [-1, 2], False], ["k", "", None, True]],
    "outputs": [],
    "known_from": "declared",
    "passing": "keywords",
    "batch_axis": 0,
    "example": '{"x": [[1, 2]]}',
}


def described(**more):
    return {"methods": {}, "loader": "x", "default_method": None, **more}


class Back:
    """A backend with one admitted worker, played by `peer`."""

    def __init__(self, transport):
        self.transport = transport
        self.events = []
        self.lanes = LanePlaces(load_config(environment=False))
        self.backend = Backend(transport.listen, self.events.append, 1 << 20, self.lanes)
        self.socket = self.backend.socket
        self.token = self.backend.admit(WORKER)
        self.peer = transport.dealer(self.socket, bytes.fromhex(self.token))

    def say(self, frames):
        """Have the worker say something, and let the backend hear it."""
        seen = len(self.events)
        self.peer.send_multipart(frames)
        self.transport.until(lambda: len(self.events) > seen)

    def say_in_vain(self, frames):
        """Have the worker say what makes no event, and then something that does."""
        self.peer.send_multipart(frames)
        self.say(wire.pack(msg.ITEM, 1))
        assert isinstance(self.events.pop(), ev.WorkerAnswered)

    def hear(self):
        self.transport.until(lambda: self.peer.poll(0))
        return wire.unpack(self.peer.recv_multipart())


@pytest.fixture
def back(tmp_path):
    with Transport(tmp_path) as transport:
        made = Back(transport)
        made.say(msg.pack_map(msg.WORKER_HELLO, 0, {"versions": [wire.VERSION]}))
        assert made.events.pop() == ev.WorkerSaidHello(WORKER)
        yield made


def test_tokens_are_secret_and_different(back):
    tokens = {back.backend.admit(ev.WorkerId(number)) for number in range(100, 200)}
    assert len(tokens) == 100
    assert all(len(bytes.fromhex(token)) == 16 and token[:2] != "00" for token in tokens)


@pytest.mark.parametrize(
    ("kind", "final", "failed"),
    [(msg.RESULT, True, False), (msg.ITEM, False, False), (msg.END, True, False), (msg.ERROR, True, True)],
)
def test_an_answer_becomes_an_event_unread(back, kind, final, failed):
    back.say(wire.pack(kind, 17, body=b"\xc1 nonsense"))
    (event,) = back.events
    assert (event.worker_id, event.call_id, event.final, event.failed) == (WORKER, 17, final, failed)


@pytest.mark.parametrize(
    ("said", "kept"), [(["UserWarning: old", 7], ("UserWarning: old",)), ("old", ()), (None, ()), ([], ())]
)
def test_what_was_loaded_is_described_with_warnings_that_are_texts_whatever_a_worker_says(back, said, kept):
    body = described(methods={"predict": METHOD}, loader="python", warnings=said)
    back.say(msg.pack_map(msg.LOADED, 0, body))
    (event,) = back.events
    assert event == ev.WorkerLoaded(WORKER, "python", {"predict": hostd.MethodInfo(**METHOD)}, None, warnings=kept)


def test_what_methods_take_and_return_is_described(back):
    back.say(msg.pack_map(msg.LOADED, 0, described(methods={"predict": {**METHOD, **SIGNATURE}}, loader="python")))
    (event,) = back.events
    assert event.methods["predict"] == hostd.MethodInfo(
        **METHOD,
        inputs=(hostd.TensorInfo("x", "FP32", (-1, 2)), hostd.TensorInfo("k", optional=True)),
        known_from="declared",
        passing="keywords",
        batch_axis=0,
        example={"x": [[1, 2]]},
    )
    back.say(msg.pack_map(msg.LOADED, 0, described(methods={"predict": {**METHOD, **SIGNATURE, "example": ""}})))
    assert back.events[-1].methods["predict"].example is None


MALFORMED = {
    **{
        f"a description {number}": (msg.LOADED, body)
        for number, body in enumerate(
            [
                {},
                described(methods=[]),
                described(loader=7),
                described(default_method=7),
                *(
                    described(methods={"a": method})
                    for method in ({}, 7, {**METHOD, "streams": "yes"}, {**METHOD, "doc": None})
                ),
                described(methods={7: METHOD}),
                described(methods={str(n): METHOD for n in range(msg.MAX_METHODS + 1)}),
                described(loader="x" * 600_000),
                described(more=[[[]] * 50] * 800),
                *(
                    described(methods={"a": {**METHOD, **SIGNATURE, **wrong}})
                    for wrong in (
                        {"inputs": {}},
                        {"inputs": [["x", "FP32", [-1]]]},
                        {"outputs": [["x", "FP32", ["-1"], False]]},
                        {"outputs": [["x", "FP32", [True], False]]},
                        {"passing": None},
                        {"batch_axis": "0"},
                        {"example": "{"},
                        {"example": "[1]"},
                        {"example": "[" * 16_000},
                        {"example": '{"x": "' + "x" * 16_384 + '"}'},
                    )
                ),
            ]
        )
    },
    "a hello of another version": (msg.WORKER_HELLO, {"versions": [99]}),
    "a hello of no version": (msg.WORKER_HELLO, {"versions": None}),
    "a hello of many parts": (msg.WORKER_HELLO, {"versions": [wire.VERSION], "more": [[]] * 1000}),
    "a long hello": (msg.WORKER_HELLO, {"versions": [wire.VERSION], "more": "x" * 20_000}),
    **{
        f"last words {number}": (msg.LAST_WORDS, {"status": 14, "kind": "", "message": "", "details": {"d": detail}})
        for number, detail in enumerate(([[[]] * 4000] * 3, "x" * (1 << 20)))
    },
    "an unknown kind": (99, {}),
}
NONSENSE = {
    **{name: wire.pack(kind, 0, body=encode(body)[0]) for name, (kind, body) in MALFORMED.items()},
    **{repr(frame): [frame] for frame in (b"", b"short", b"\xff" * 16)},
    "a call": wire.pack(msg.CALL, 1),
    "kind 200": wire.pack(200, 1),
    "a hello that is no map": wire.pack(msg.WORKER_HELLO, 0, body=b"\xc1"),
    "last words that are no map": wire.pack(msg.LAST_WORDS, 0, body=b"\x01"),
}


@pytest.mark.parametrize("frames", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_and_what_would_hold_everybody_up_is_dropped_and_logged_once(back, frames, caplog):
    for _ in range(3):
        back.say_in_vain(frames)
    assert back.events == []
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1


def test_a_refused_load_and_last_words_carry_their_error(back):
    back.say(msg.pack_error(0, hostd.ModelError("bad weights", details={"traceback": "here"})))
    back.say(msg.pack_map(msg.LAST_WORDS, 0, {"status": 14, "kind": "UnavailableError", "message": "m", "details": {}}))
    refused, words = back.events
    assert isinstance(refused, ev.WorkerRefusedLoad)
    assert isinstance(refused.error, hostd.ModelError)
    assert refused.error.traceback == "here"
    assert isinstance(words, ev.WorkerSpokeLastWords)
    assert isinstance(words.error, hostd.UnavailableError)


def test_errors_that_are_malformed_or_would_hold_everybody_up_are_errors_all_the_same(back):
    for body in (b"", b"\xc1", b"\x01", b"\x94\x01\x02\x03\x04"):
        back.say(wire.pack(msg.ERROR, 0, body=body))
    back.say(msg.pack_map(msg.LAST_WORDS, 0, {"status": [], "message": 7}))
    assert all(isinstance(event.error, hostd.InternalError) for event in back.events)
    for detail in ([[[]] * 4000] * 3, "x" * (1 << 20)):
        back.say(wire.pack(msg.ERROR, 0, body=encode([2, "ModelError", "m", {"d": detail}])[0]))
        assert "cannot be read" in back.events.pop().error.message


def test_a_worker_is_silent_until_it_says_hello_and_is_not_heard_when_it_is_forgotten(back):
    assert not back.backend.is_silent(WORKER)
    other = ev.WorkerId(5)
    back.backend.admit(other)
    assert back.backend.is_silent(other)
    for worker in (other, WORKER, WORKER):
        back.backend.forget(worker)
        assert not back.backend.is_silent(worker)
    back.peer.setsockopt(zmq.SNDTIMEO, 0)
    with pytest.raises(zmq.Again):  # its connections are refused, so what it says waits in its own process
        while True:
            back.peer.send_multipart(wire.pack(msg.RESULT, 17))
    assert back.events == []


def test_a_call_goes_out_under_our_id_with_what_is_left_of_its_deadline(back):
    payload = wire.pack(msg.CALL, 99, b"header", b"b" * 20_000, [b"x" * 9], deadline_ms=60_000)
    for remaining_s, deadline_ms in ((2.5, 2500), (0.0001, 1), (None, wire.MAX_DEADLINE_MS)):
        back.backend.call(fx.ForwardCall(WORKER, ev.CallId(5), remaining_s, payload))
        heard = back.hear()
        assert (heard.kind, heard.id, heard.deadline_ms, heard.header) == (msg.CALL, 5, deadline_ms, b"header")
        assert (bytes(heard.body), len(heard.buffers)) == (b"b" * 20_000, 1)


def test_cancels_and_credits_and_loads_reach_the_worker(back):
    back.backend.cancel(fx.ForwardCancel(WORKER, ev.CallId(5)))
    assert (heard := back.hear()).kind == msg.CANCEL
    assert heard.id == 5
    back.backend.credit(fx.ForwardCredit(WORKER, ev.CallId(5), 32))
    assert msg.unpack_credit(back.hear().header) == 32
    spec = ev.LoadingSpec("python", {"n": 1}, None, {}, ("predict",), "predict")
    back.backend.load(fx.SendLoad(WORKER, MODEL, "/path", spec))
    request = msg.unpack_map(back.hear())
    assert request["initializer"] is None
    assert request["model_id"] == "m"
    assert (request["path"], request["loader"], request["options"]) == ("/path", "python", {"n": 1})
    assert (request["methods"], request["default_method"]) == (["predict"], "predict")
    back.backend.load(fx.SendLoad(WORKER, MODEL, "/path", spec._replace(initializer=("my:own", {"n": 2}))))
    assert msg.unpack_map(back.hear())["initializer"] == ["my:own", {"n": 2}]


def test_what_feeds_a_call_reaches_the_worker_under_our_id(back):
    back.backend.feed(fx.ForwardFeed(WORKER, ev.CallId(5), wire.pack(msg.ITEM, 99, b"", b"b" * 20_000, [b"x" * 9])))
    heard = back.hear()
    assert (heard.kind, heard.id, bytes(heard.body), len(heard.buffers)) == (msg.ITEM, 5, b"b" * 20_000, 1)


def test_what_a_model_asks_for_is_no_end_of_its_call_and_must_be_a_count(back):
    back.say(msg.pack_credit(5, 64))
    (asked,) = back.events
    assert (asked.call_id, asked.final, asked.failed) == (5, False, False)
    back.say_in_vain(wire.pack(msg.CREDIT, 5, b"\xa1x"))
    assert back.events == [asked]


def test_an_item_for_a_worker_that_takes_nothing_ends_its_call_and_one_for_a_dead_worker_is_left_to_its_death(back):
    other = ev.WorkerId(5)
    back.backend.admit(other)
    back.backend.feed(fx.ForwardFeed(other, ev.CallId(6), wire.pack(msg.ITEM, 1)))
    while not back.events:
        back.backend.feed(fx.ForwardFeed(WORKER, ev.CallId(7), wire.pack(msg.ITEM, 1, b"", b"b" * 60_000)))
        back.transport.until(lambda: True)
    assert back.events == [ev.WorkerUnreachable(WORKER, ev.CallId(7), is_full=True, has_begun=True)]


def test_a_call_to_a_worker_without_connection_is_reported(back):
    other = ev.WorkerId(5)
    back.backend.admit(other)
    back.backend.call(fx.ForwardCall(other, ev.CallId(6), None, wire.pack(msg.CALL, 1)))
    back.backend.cancel(fx.ForwardCancel(other, ev.CallId(6)))
    back.transport.until(lambda: back.events)
    assert back.events == [ev.WorkerUnreachable(other, ev.CallId(6), is_full=False)]


def test_a_call_to_a_worker_that_takes_nothing_is_refused(back):
    payload = wire.pack(msg.CALL, 1, b"", b"b" * 60_000)
    for number in itertools.count(1):
        back.backend.call(fx.ForwardCall(WORKER, ev.CallId(number), None, payload))
        back.transport.until(lambda: True)
        if back.events:
            break
    assert back.events == [ev.WorkerUnreachable(WORKER, ev.CallId(number), is_full=True)]


def test_what_a_worker_said_before_its_end_is_heard_before_anything_else(back):
    big = wire.pack(msg.RESULT, 17, body=b"b" * 10_000)
    for _ in range(3):
        back.peer.send_multipart(big)
    back.peer.send_multipart(msg.pack_map(msg.LAST_WORDS, 0, {"status": 14, "kind": "", "message": "m", "details": {}}))
    back.peer.close(1000)
    back.transport.context.destroy()  # waits until all has left
    back.backend.read_dry(WORKER)
    assert [type(event) for event in back.events] == [*[ev.WorkerAnswered] * 3, ev.WorkerSpokeLastWords]
    back.backend.read_dry(WORKER)
    back.backend.forget(WORKER)
    back.backend.read_dry(WORKER)
