"""Calls over HTTP: values in both forms, generators, errors, and clients that go away."""

import base64
import json

import msgpack
import numpy as np
import pytest
from front_rig import JSON, MSGPACK, verbs_of
from helpers import eventually

VALUES = """
    import asyncio, datetime, os, time
    import numpy as np

    class Model:
        def predict(self, *args, **kwargs):
            return {"args": list(args), "kwargs": kwargs}

        def kinds(self, x):
            return type(x).__name__, str(getattr(x, "dtype", "")), str(getattr(x, "shape", ""))

        def array(self, dtype):
            return np.arange(6).reshape(2, 3).astype(dtype)

        def odd(self):
            return [float("nan"), float("-inf"), b"ab", np.float32(0.5), np.array([np.nan, 1.0]), {1: ()},
                    datetime.datetime(2026, 11, 30, tzinfo=datetime.timezone.utc), 2**63]

        def fail(self):
            raise ValueError("not this one")

        def count(self, n, fails_at=None):
            for i in range(n):
                if i == fails_at:
                    raise ValueError("at " + str(i))
                yield {"i": i, "x": np.array([i, i])}

        def ticks(self, began, ended):
            try:
                open(began, "w").close()
                while True:
                    yield 1
                    time.sleep(0.001)
            finally:
                open(ended, "w").close()

        async def wait(self, began, ended):
            try:
                open(began, "w").close()
                await asyncio.Event().wait()
            finally:
                open(ended, "w").close()

        def hold(self, began, gate):
            open(began, "w").close()
            while not os.path.exists(gate):
                time.sleep(0.002)

    def load(path):
        return Model()
"""


@pytest.fixture(scope="module")
def front(shared_host, tmp_path_factory):
    path = tmp_path_factory.mktemp("values")
    (path / "model.py").write_text("\n".join(line[4:] for line in VALUES.splitlines()))
    with verbs_of(shared_host, max_body_bytes=2**16) as front:
        front.load("m", path)
        yield front


def call(front, method, *args, headers=JSON, **kwargs):
    pack = msgpack.packb if headers is MSGPACK else json.dumps
    path = f"/v1/models/m/call/{method}" if method else "/v1/models/m/call"
    return front.ask("POST", path, pack({"args": args, "kwargs": kwargs}), headers)


@pytest.mark.parametrize("headers", [JSON, MSGPACK], ids=["json", "msgpack"])
@pytest.mark.parametrize("method", ["predict", ""], ids=["by name", "the default"])
def test_arguments_arrive_by_position_and_by_name(front, method, headers):
    answer = call(front, method, 1, [2.5, "drei"], headers=headers, four=None)
    assert (answer.status, answer.value) == (200, {"result": {"args": [1, [2.5, "drei"]], "kwargs": {"four": None}}})


def test_a_call_without_a_body_has_no_arguments(front):
    assert front.ask("POST", "/v1/models/m/call").value == {"result": {"args": [], "kwargs": {}}}


@pytest.mark.parametrize("dtype", ["float32", "int64", "bool", "float16", "uint8"])
def test_an_array_is_nested_lists_in_json_and_its_bytes_in_msgpack(front, dtype):
    expected = np.arange(6).reshape(2, 3).astype(dtype)
    assert call(front, "array", dtype).value == {"result": expected.tolist()}
    told = call(front, "array", dtype, headers=MSGPACK).value["result"]
    assert told == {"dtype": expected.dtype.str, "shape": [2, 3], "data": expected.tobytes()}


def test_an_array_goes_in_as_it_comes_out_in_msgpack(front):
    sent = {"dtype": "<f4", "shape": [3, 0, 2], "data": b""}
    assert call(front, "kinds", sent, headers=MSGPACK).value == {"result": ["ndarray", "float32", "(3, 0, 2)"]}
    sent = {"dtype": "int16", "shape": [2], "data": b"\1\0\2\0"}
    echoed = call(front, "predict", x=[sent], headers=MSGPACK).value["result"]["kwargs"]["x"]
    assert echoed == [{**sent, "dtype": "<i2"}]


def test_a_map_of_keyword_arguments_is_no_array_whatever_their_names(front):
    kwargs = {"dtype": "<f4", "shape": [0], "data": b""}
    assert call(front, "predict", headers=MSGPACK, **kwargs).value["result"]["kwargs"] == kwargs


@pytest.mark.parametrize(
    "array",
    [
        {"dtype": "O", "shape": [1], "data": bytes(8)},
        {"dtype": "f4,f4", "shape": [1], "data": bytes(8)},
        {"dtype": ["<f4"], "shape": [1], "data": bytes(4)},
        {"dtype": "<f4", "shape": [2], "data": bytes(4)},
        {"dtype": "<f4", "shape": [1], "data": bytes(8)},
        {"dtype": "<f4", "shape": [-1], "data": bytes(4)},
        {"dtype": "<f4", "shape": [2**62, 2**62], "data": bytes(4)},
        {"dtype": "int12", "shape": [1], "data": bytes(4)},
    ],
    ids=str,
)
def test_an_array_that_is_none_is_refused(front, array):
    answer = call(front, "kinds", array, headers=MSGPACK)
    assert (answer.status, answer.kind) == (400, "InvalidArgumentError")


@pytest.mark.parametrize("headers", [JSON, MSGPACK], ids=["json", "msgpack"])
def test_an_argument_that_is_too_deep_is_refused(front, headers):
    deep = 0
    for _ in range(400):
        deep = [deep]
    answer = call(front, "kinds", deep, headers=headers)
    assert (answer.status, answer.kind) == (400, "InvalidArgumentError")


def test_what_json_has_not_is_told_as_the_command_line_tells_it(front):
    assert call(front, "odd").value["result"] == [
        "NaN",
        "-Infinity",
        base64.b64encode(b"ab").decode(),
        0.5,
        ["NaN", 1.0],
        {"1": []},
        "2026-11-30T00:00:00+00:00",
        2**63,
    ]


def test_what_fails_in_the_model_has_its_traceback(front):
    answer = call(front, "fail")
    assert (answer.status, answer.kind) == (500, "ModelError")
    assert "not this one" in answer.value["details"]["traceback"]


def test_a_method_that_is_not_there_and_a_model_that_is_not_there_are_told_apart(front):
    assert (call(front, "nothing").status, call(front, "nothing").kind) == (501, "UnimplementedError")
    assert front.ask("POST", "/v1/models/nobody/call/predict", {}).status == 404
    assert front.ask("POST", "/v1/models/nobody/call", {}).status == 404


def test_a_call_ends_at_its_deadline(front, tmp_path):
    gate = tmp_path / "gate"
    body = {"args": [str(tmp_path / "began"), str(gate)]}
    answer = front.ask("POST", "/v1/models/m/call/hold?timeout_s=0.2", body)
    gate.touch()
    assert (answer.status, answer.kind) == (504, "DeadlineExceededError")


def test_the_body_of_a_call_has_a_bound_of_its_own(front):
    assert call(front, "kinds", "x" * 60_000).status == 200
    assert call(front, "kinds", "x" * 70_000).kind == "MessageTooLargeError"


def follow(front, method, *args, **kwargs):
    path = f"/v1/models/m/call/{method}?stream=true" if method else "/v1/models/m/call?stream=true"
    return front.following("POST", path, {"args": args, "kwargs": kwargs})


def test_the_items_of_a_generator_come_as_events_and_then_its_end(front):
    with follow(front, "count", 2) as events:
        items = list(events)
    assert [(event.name, event.number, event.data) for event in items] == [
        ("item", "1", {"i": 0, "x": [0, 0]}),
        ("item", "2", {"i": 1, "x": [1, 1]}),
        ("end", "", {"items": 2}),
    ]


def test_a_generator_that_fails_ends_with_an_event_that_says_why(front):
    with follow(front, "count", 3, fails_at=1) as events:
        first, last = list(events)
    assert (first.data["i"], last.name, last.data["kind"]) == (0, "error", "ModelError")
    assert "at 1" in last.data["details"]["traceback"]


def test_what_fails_before_the_first_item_has_a_status_of_its_own(front):
    answer = front.ask("POST", "/v1/models/m/call/count?stream=true", {"kwargs": {"n": 1, "fails_at": 0}})
    assert (answer.status, answer.kind) == (500, "ModelError")
    assert front.ask("POST", "/v1/models/nobody/call/count?stream=true", {}).status == 404


def test_a_client_that_goes_away_ends_the_stream_in_the_model(front, tmp_path):
    began, ended = tmp_path / "began", tmp_path / "ended"
    with follow(front, "ticks", str(began), str(ended)) as events:
        assert next(events).data == 1
        assert not ended.exists()
    eventually(ended.exists, "the generator is closed")


def test_a_client_that_goes_away_cancels_its_call(front, tmp_path):
    began, ended = tmp_path / "began", tmp_path / "ended"
    body = json.dumps({"args": [str(began), str(ended)]})
    with front.begun("POST", "/v1/models/m/call/wait", body, JSON):
        eventually(began.exists, "the call has begun")
        assert not ended.exists()
    eventually(ended.exists, "the call is cancelled")
