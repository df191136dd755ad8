"""A front under uvicorn in a thread of the test's process, and the models that it is asked for."""

import contextlib
import json
import socket
import textwrap
import threading
import urllib.error
import urllib.request

import joblib
import numpy as np
import uvicorn
import uvloop
from helpers import PATIENCE_S
from onnx import TensorProto, helper
from sklearn.linear_model import LogisticRegression

import hostd
from hostd.fronts.oip import http

KINDS = """
    import pathlib, time
    import numpy as np

    class Model:
        def predict(self, x):
            return x

        def scaled(self, x, *, scale):
            return x * scale

        def both(self, a, b):
            return {"sum": a + b, "difference": a - b}

        def of_map(self, inputs):
            return {name: value + 1 for name, value in inputs.items()}

        def half(self, x):
            return x.astype(np.float16)

        def records(self, x):
            return [{"label": "cat", "score": 0.5}]

        def kind(self, texts):
            return type(texts[0]).__name__

        def not_finite(self, x):
            return np.array([np.nan, -np.inf, 1.5])

        def raw(self, x):
            return b"\\xff\\x00"

        def fail(self, x):
            raise ValueError("these inputs are bad")

        def complete(self, prompt, *, times=1):
            return prompt * times

        def generate(self, prompt, *, count=3, fail_at=None, marker=None):
            try:
                for number in range(count):
                    if number == fail_at:
                        raise ValueError("no more")
                    yield f"{prompt}{number} "
            finally:
                if marker:
                    pathlib.Path(marker).touch()

        async def wait(self, marker):
            import asyncio
            pathlib.Path(marker).write_text("begun")
            try:
                await asyncio.Event().wait()
            finally:
                pathlib.Path(marker).write_text("cancelled")

    def load(path, **options):
        return Model()
"""


class Front:
    """The application in a server that listens on `url`; `get` and `post` return status, headers and body."""

    def __init__(self, endpoint, made=http.app, **options):
        self._endpoint = endpoint
        self._made = lambda client: made(client, **options)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = "{}:{}".format(*self._listener.getsockname())
        self._server = None
        self._thread = threading.Thread(target=lambda: uvloop.run(self._serve()))

    async def _serve(self):
        async with hostd.AsyncClient(self._endpoint) as client:
            config = uvicorn.Config(self._made(client), log_level="warning", access_log=False, ws="none")
            self._server = uvicorn.Server(config)
            await self._server.serve(sockets=[self._listener])

    def __enter__(self):
        self._thread.start()
        assert self.get("/v2/health/live")[0] == 200
        return self

    def __exit__(self, *_):
        self._server.should_exit = True
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        self._listener.close()

    def get(self, path, **headers):
        """Ask for a path."""
        return self._ask(urllib.request.Request(f"http://{self.url}{path}", headers=headers))

    def post(self, path, body=b"", **headers):
        """Send bytes, or anything else as JSON, to a path."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): str(value) for name, value in headers.items()}
        return self._ask(urllib.request.Request(f"http://{self.url}{path}", data, named, method="POST"))

    def infer(self, model_id, *inputs, **request):
        """Send a JSON request and return status and JSON."""
        status, _, body = self.post(f"/v2/models/{model_id}/infer", {"inputs": inputs, **request})
        return status, json.loads(body)

    def _ask(self, request):
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            with contextlib.closing(error):
                return error.code, error.headers, error.read()


def numbers(values, datatype="FP32", name="x", shape=None):
    """Return an input as JSON."""
    return {"name": name, "datatype": datatype, "shape": [len(values)] if shape is None else shape, "data": values}


def write_python(directory, source=KINDS):
    """Write a python model."""
    directory.mkdir(parents=True)
    (directory / "model.py").write_text(textwrap.dedent(source))
    return directory


def write_sklearn(directory):
    """Write a classifier of two features."""
    directory.mkdir(parents=True)
    x = np.array([[0.0, 0.0], [0.0, 1.0], [4.0, 4.0], [4.0, 5.0]])
    joblib.dump(LogisticRegression().fit(x, [0, 0, 1, 1]), directory / "model.joblib")
    return directory


def write_onnx(directory):
    """Write a model that adds its two inputs."""
    directory.mkdir(parents=True)
    a, b, total = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("a", "b", "total"))
    graph = helper.make_graph([helper.make_node("Add", ["a", "b"], ["total"])], "graph", [a, b], [total])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (directory / "model.onnx").write_bytes(model.SerializeToString())
    return directory
