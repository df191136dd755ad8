"""What fronts share, without a host: errors, records that are kept for a moment, bodies, encodings, ASGI."""

import asyncio
import gzip
import json
import zlib

import numpy as np
import orjson
import pytest

import hostd
from hostd import MethodInfo, ModelInfo, Status, TensorInfo
from hostd.fronts import asgi, encodings, json_text
from hostd.fronts.errors import HTTP_STATUS, body_of, http_status_of, retry_after_s
from hostd.fronts.models import FRESH_S, Models
from hostd.fronts.oip import http

# Errors


def test_every_status_has_its_number_in_http():
    assert set(HTTP_STATUS) == set(Status)
    assert http_status_of(hostd.NotFoundError("no")) == 404
    assert http_status_of(hostd.ModelError("no")) == 500


def test_only_what_may_go_better_later_says_when_to_try_again():
    assert retry_after_s(hostd.UnavailableError("no")) == retry_after_s(hostd.ResourceExhaustedError("no")) == 1
    assert retry_after_s(hostd.NotFoundError("no")) is retry_after_s(hostd.AbortedError("no")) is None
    too_large = hostd.MessageTooLargeError("no")
    assert (http_status_of(too_large), retry_after_s(too_large)) == (413, None)


def test_an_error_is_told_with_the_details_that_json_can_hold():
    error = hostd.NotFoundError("no \udcff", details={"model_id": "m", "raw": b"\xff", "big": 2**70})
    body = json.loads(orjson.dumps(body_of(error)))
    assert body == {"error": "no \\udcff", "status": "NOT_FOUND", "kind": "NotFoundError", "details": {"model_id": "m"}}


# Records


class FakeClient:
    """A client of a host with the given records; what is not among the loaded ones is loaded if it is `loadable`."""

    endpoint = "fake"

    def __init__(self, *loaded, loadable=(), result=None, timeout_s=60.0):
        self.loaded = {info.id: info for info in loaded}
        self.loadable = {info.id: info for info in loadable}
        self.result = result
        self.timeout_s = timeout_s
        self.asked = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def get_model(self, model_id, *, all=False):
        self.asked.append(("get", model_id))
        await self.gate.wait()
        known = {**self.loadable, **self.loaded} if all else self.loaded
        if model_id not in known:
            raise hostd.NotFoundError(f"there is no model {model_id!r}")
        return known[model_id]

    async def retrieve_model(self, model_id):
        self.asked.append(("retrieve", model_id))
        if model_id in self.loadable:
            self.loaded[model_id] = self.loadable[model_id]
        info = await self.get_model(model_id)

        class Handle:
            async def info(self):
                return info

        return Handle()

    async def call(self, model_id, method, args, kwargs, timeout_s):
        self.asked.append((model_id, method, args, kwargs))
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


def ready(model_id="m", **fields):
    return ModelInfo(model_id, "READY", None, "t", **fields)


def test_a_burst_asks_the_host_once_and_the_record_is_kept_for_a_moment():
    async def body():
        now_s = 0.0
        client = FakeClient(ready())
        models = Models(client, clock=lambda: now_s)
        client.gate.clear()
        many = [asyncio.ensure_future(models.get("m")) for _ in range(10)]
        await asyncio.sleep(0)
        many[0].cancel()  # which disturbs nobody
        await asyncio.sleep(0)
        client.gate.set()
        found = await asyncio.gather(*many, return_exceptions=True)
        assert [type(one) for one in found] == [asyncio.CancelledError, *[ModelInfo] * 9]
        now_s = FRESH_S - 0.01
        await models.get("m")
        assert client.asked == [("get", "m")]
        now_s = FRESH_S
        await models.get("m")
        assert client.asked == [("get", "m")] * 2

    asyncio.run(body())


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (hostd.NotFoundError("no"), 2),
        (hostd.UnimplementedError("no"), 2),
        (hostd.InvalidArgumentError("no"), 2),
        (hostd.ModelError("no"), 1),
    ],
)
def test_a_record_is_forgotten_when_a_call_shows_that_it_may_be_outdated(error, asked):
    async def body():
        client = FakeClient(ready())
        models = Models(client)
        await models.get("m")
        models.note("m", error)
        await models.get("m")
        assert len(client.asked) == asked

    asyncio.run(body())


def test_what_does_not_fit_a_kept_record_is_looked_at_with_that_of_the_model_that_replaced_it():
    def plan(info):
        seen.append(info.generation)
        if info.generation == 1:
            raise hostd.InvalidArgumentError("not in the first one")
        return "planned"

    async def body():
        client = FakeClient(ready(generation=1))
        models = Models(client)
        with pytest.raises(hostd.InvalidArgumentError, match="not in the first one"):
            await models.planned("m", plan)
        assert seen == [1]  # the same model again would raise again
        client.loaded["m"] = ready(generation=2)
        assert await models.planned("m", plan) == "planned"
        assert seen == [1, 1, 2]

    seen = []
    asyncio.run(body())


def test_a_record_that_is_forgotten_while_it_is_asked_for_is_not_kept():
    async def body():
        client = FakeClient(ready())
        client.gate.clear()
        models = Models(client)
        asking = asyncio.ensure_future(models.get("m"))
        await asyncio.sleep(0)
        models.forget("m")
        client.gate.set()
        assert (await asking).id == "m"
        await models.get("m")
        assert client.asked == [("get", "m")] * 2

    asyncio.run(body())


def test_what_is_not_loaded_is_retrieved_and_what_is_not_there_is_told_in_tritons_words():
    async def body():
        client = FakeClient(loadable=[ready("lazy")])
        models = Models(client)
        assert (await models.record("lazy")).id == "lazy"
        assert ("retrieve", "lazy") not in client.asked
        assert (await models.get("lazy")).id == "lazy"
        assert ("retrieve", "lazy") in client.asked
        for ask in (models.get, models.record):
            with pytest.raises(hostd.NotFoundError, match=r"^Request for unknown model: 'x' is not found: there is no"):
                await ask("x")
        assert "kept=1 pending=0" in repr(models)

    asyncio.run(body())


def test_a_model_that_does_not_serve_in_time_is_late_and_goes_on_loading():
    async def body():
        client = FakeClient(ready())
        client.gate.clear()
        models = Models(client)
        with pytest.raises(hostd.DeadlineExceededError, match=r"'m' did not serve within 0.01 s"):
            await models.get("m", timeout_s=0.01)
        client.gate.set()
        assert (await models.get("m")).id == "m"
        assert client.asked == [("get", "m")]

    asyncio.run(body())


# Encodings


@pytest.mark.parametrize(
    ("header", "chosen"),
    [
        (None, None),
        (b"", None),
        (b"identity", None),
        (b"gzip", "gzip"),
        (b"deflate", "deflate"),
        (b"gzip, deflate, br", "gzip"),
        (b"deflate, gzip;q=0.5", "deflate"),
        (b"gzip;q=0", None),
        (b"gzip;q=x", None),
        (b"GZIP ; q=1.0", "gzip"),
    ],
)
def test_the_encoding_is_the_one_that_the_client_prefers(header, chosen):
    assert encodings.accepted(header) == chosen


def bare(data):
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


DATA = bytes(range(256)) * 10


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        (None, DATA),
        (b"identity", DATA),
        (b"gzip", gzip.compress(DATA)),
        (b"X-GZIP", gzip.compress(DATA)),
        (b"gzip", gzip.compress(DATA[:100]) + gzip.compress(DATA[100:])),
        (b"deflate", zlib.compress(DATA)),
        (b"deflate", bare(DATA)),
    ],
    ids=["none", "identity", "gzip", "x-gzip", "two-members", "zlib", "bare"],
)
def test_bodies_are_inflated_up_to_the_bound(encoding, body):
    assert asyncio.run(encodings.inflated(body, encoding, len(DATA))) == DATA
    if encoding not in (None, b"identity"):
        with pytest.raises(hostd.MessageTooLargeError):
            asyncio.run(encodings.inflated(body, encoding, len(DATA) - 1))


@pytest.mark.parametrize(
    "body",
    [b"x", gzip.compress(DATA)[:-1], gzip.compress(DATA) + b"x", gzip.compress(DATA)[:10]],
    ids=["no-header", "cut-off", "more-behind", "header-alone"],
)
def test_damaged_bodies_are_refused(body):
    with pytest.raises(hostd.InvalidArgumentError, match="gzip"):
        asyncio.run(encodings.inflated(body, b"gzip", 10**6))


def test_small_and_large_bodies_are_deflated():
    for size in (10, encodings.IN_THREAD_BYTES):
        assert gzip.decompress(asyncio.run(encodings.deflated(bytes(size), "gzip"))) == bytes(size)
        assert zlib.decompress(asyncio.run(encodings.deflated(bytes(size), "deflate"))) == bytes(size)


# Bodies


def read(messages, max_bytes, *headers):
    """Return the body, or the error, and how many messages were left."""
    remaining = [{"type": "http.request", "body": body, "more_body": True} for body in messages]
    remaining[-1]["more_body"] = False

    async def receive():
        return remaining.pop(0)

    try:
        found = asyncio.run(asgi.read_body({"headers": list(headers)}, receive, max_bytes))
    except hostd.MessageTooLargeError as error:
        found = type(error)
    return found, len(remaining)


def test_a_body_is_read_up_to_the_bound_whatever_was_announced():
    assert read([b"ab", b"", b"cd"], 4) == (b"abcd", 0)
    assert read([b"ab", b"cd", b"e"], 3) == (hostd.MessageTooLargeError, 0)
    assert read([b"ab", b"cd"], 3, (b"content-length", b"2")) == (hostd.MessageTooLargeError, 0)
    assert read([b"ab", b"cd"], 3, (b"content-length", b"4")) == (hostd.MessageTooLargeError, 0)
    assert read([b"ab"], 3, (b"content-length", b"x")) == (b"ab", 0)


def test_what_a_client_still_sends_is_read_on_a_little_before_a_refusal_unless_it_waits_to_be_asked():
    announced, waiting = (b"content-length", b"4"), (b"expect", b"100-continue")
    assert read([b"ab", b"cd"], 3, announced, waiting) == (hostd.MessageTooLargeError, 2)
    piece = bytes(asgi.DRAIN_BYTES // 2)
    assert read([b"abcd", piece, piece, piece, b""], 3) == (hostd.MessageTooLargeError, 2)


# The application, called as a server does


def ask(application, path, body=b"", verb="POST", parts=1, headers=(), **scope):
    """Return the status and the JSON of the response; None if there was none."""
    size = max(1, -(-len(body) // parts))
    messages = [
        {"type": "http.request", "body": body[i * size : (i + 1) * size], "more_body": i < parts - 1}
        for i in range(parts)
    ]
    sent = []

    async def run():
        forever = asyncio.Event()

        async def receive():
            if messages:
                return messages.pop(0)
            await forever.wait()
            raise AssertionError("nobody sets it")

        async def send(message):
            sent.append(message)

        full = {"type": "http", "method": verb, "path": path, "headers": list(headers), **scope}
        await application(full, receive, send)

    asyncio.run(run())
    start, last = sent
    return start["status"], json.loads(last["body"])


INPUTS = [{"name": "anything", "datatype": "INT64", "shape": [1, 2], "data": [1, 2]}]
DECLARED = MethodInfo(
    "predict",
    inputs=(TensorInfo("x", "FP32", (-1, 2)),),
    outputs=(TensorInfo("y", "FP32", (-1,)),),
    known_from="reported",
    passing="array",
)


@pytest.mark.parametrize("parts", [1, 3])
def test_a_declared_method_gets_its_dtype_and_its_output_has_its_name(parts):
    client = FakeClient(ready(methods={"predict": DECLARED}), result=np.array([0.5], np.float32))
    body = json.dumps({"inputs": INPUTS}).encode()
    status, answer = ask(http.app(client), "/v2/models/m/infer", body, parts=parts)
    assert (status, answer["outputs"]) == (200, [{"name": "y", "datatype": "FP32", "shape": [1], "data": [0.5]}])
    (model_id, method, (value,), kwargs) = client.asked[-1]
    assert (model_id, method, value.dtype, value.tolist(), kwargs) == ("m", "predict", np.float32, [[1.0, 2.0]], {})


def test_a_declared_method_takes_a_body_without_json():
    client = FakeClient(ready(methods={"predict": DECLARED}), result="fine")
    headers = [(b"inference-header-content-length", b"0")]
    sent = np.array([1, 2, 3, 4], np.float32)
    with pytest.raises(json.JSONDecodeError):  # the answer is binary
        ask(http.app(client), "/v2/models/m/infer", sent.tobytes(), headers=headers)
    assert client.asked[-1][2][0].tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_a_model_that_is_gone_since_its_record_was_taken_is_unknown():
    client = FakeClient(ready(methods={"predict": DECLARED}), result=hostd.NotFoundError("there is no model 'm'"))
    status, answer = ask(http.app(client), "/v2/models/m/infer", json.dumps({"inputs": INPUTS}).encode())
    assert (status, answer["error"]) == (404, "Request for unknown model: 'm' is not found: there is no model 'm'")


def test_a_server_without_raw_paths_and_a_place_below_another_are_understood():
    client = FakeClient(ready("a b"))
    for scope in ({}, {"raw_path": b"/here/v2/models/a%20b/ready?x=1", "root_path": "/here"}):
        assert ask(http.app(client), "/v2/models/a b/ready", verb="GET", **scope)[0] == 200


def test_a_client_that_goes_amid_its_body_gets_no_answer():
    async def run():
        messages = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]

        async def receive():
            return messages.pop(0)

        async def send(message):
            raise AssertionError(message)

        scope = {"type": "http", "method": "POST", "path": "/v2/models/m/infer", "headers": []}
        await http.app(FakeClient())(scope, receive, send)

    asyncio.run(run())


def test_the_server_can_cancel_a_request():
    async def run():
        client = FakeClient(ready())
        client.gate.clear()
        messages = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive():
            return messages.pop(0) if messages else await asyncio.Event().wait()

        async def send(message):
            raise AssertionError(message)

        scope = {"type": "http", "method": "GET", "path": "/v2/models/m", "headers": []}
        task = asyncio.ensure_future(http.app(client)(scope, receive, send))
        for _ in range(5):  # turns, until it waits for the host
            await asyncio.sleep(0)
        assert client.asked
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())


def test_the_life_of_a_server_needs_nothing_and_websockets_are_closed():
    async def run():
        received = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
        sent = []

        async def receive():
            return received.pop(0)

        async def send(message):
            sent.append(message["type"])

        application = http.app(FakeClient())
        await application({"type": "lifespan"}, receive, send)
        await application({"type": "websocket"}, receive, send)
        assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete", "websocket.close"]

    asyncio.run(run())


def test_work_that_fails_or_ends_is_not_taken_for_a_client_that_has_gone():
    async def run():
        async def receive():
            await asyncio.Event().wait()

        async def fails():
            raise hostd.NotFoundError("no")

        async def ends():
            return 7

        assert await asgi.until_disconnect(receive, ends()) == 7
        with pytest.raises(hostd.NotFoundError):
            await asgi.until_disconnect(receive, fails())

    asyncio.run(run())


@pytest.mark.parametrize("text", [b"[" + b"[]," * 400_000 * 3 + b"[]]", b"[" + b"0," * 9_000_000 + b"0]"])
def test_json_of_very_many_values_is_refused_before_it_is_read(text):
    with pytest.raises(hostd.MessageTooLargeError, match="send arrays in binary form"):
        json_text.parsed(text, "the request")
    assert json_text.parsed(b"[[1, 2], [3]]", "the request") == [[1, 2], [3]]
