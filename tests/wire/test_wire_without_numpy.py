"""Arrays where there is no NumPy: they pass through, and nothing imports it behind anybody's back."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
from helpers import REPOSITORY

from hostd_workers.wire import arrays
from hostd_workers.wire.arrays import ArrayView
from hostd_workers.wire.codec import decode, encode
from hostd_workers.wire.errors import InvalidArgumentError


@pytest.fixture
def no_numpy(monkeypatch):
    """Make `import numpy` fail, as in an environment that does not have it."""
    arrays._numpy.cache_clear()
    monkeypatch.setitem(sys.modules, "numpy", None)
    yield
    arrays._numpy.cache_clear()


ARRAYS = {
    "small": np.arange(6, dtype="<i2").reshape(2, 3),
    "big": np.arange(6000.0),
    "fortran": np.asfortranarray(np.arange(10_000.0).reshape(100, 100)),
    "structured": np.array([(1, b"x"), (2, b"y")], [("n", "<i4"), ("s", "S3")]),
    "structured and big": np.zeros(3000, [("n", "<i4"), ("sub", [("t", "<M8[us]")], (2,))]),
    "scalar": np.float32(1.5),
    "0-d": np.array(7),
    "empty": np.zeros((0, 4)),
}


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS.keys())
def test_an_array_passes_through_unchanged(array, no_numpy, monkeypatch):
    with monkeypatch.context() as with_numpy:
        with_numpy.setitem(sys.modules, "numpy", np)
        sent = encode({"a": [array]})
    view = decode(*sent)["a"][0]
    assert (type(view), view.shape) == (ArrayView, array.shape)
    again = encode({"a": [view]})
    with monkeypatch.context() as with_numpy:
        with_numpy.setitem(sys.modules, "numpy", np)
        arrays._numpy.cache_clear()
        back = decode(*again)["a"][0]
        assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())


def test_a_malformed_shape_is_refused_here_too(no_numpy):
    parts = encode(ArrayView("<f8", (-1,), "C", b""))
    with pytest.raises(InvalidArgumentError, match="malformed array"):
        decode(*parts)


def test_a_view_of_nonsense_is_refused_when_it_is_sent():
    with pytest.raises(InvalidArgumentError, match="cannot be sent"):
        encode(ArrayView(object(), (1,), "C", b"x"))


def test_values_without_arrays_import_no_numpy_and_arrays_do_not_need_it():
    code = """
        import sys

        class Refuse:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in ("numpy", "zmq", "hostd"):
                    raise ImportError(f"{name} was imported")

        sys.meta_path.insert(0, Refuse())
        from hostd_workers.wire import arrays, codec, errors, frames, messages

        value = {"a": [1, (2.5, None, b"x" * 100_000)]}
        assert codec.decode(*codec.encode(value)) == value
        assert codec.decode(*codec.encode(b"y" * 100_000)) == b"y" * 100_000
        view = arrays.ArrayView("<f8", (1000,), "C", bytes(8000))
        assert codec.decode(*codec.encode([view])) == [view]
        assert "numpy" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, cwd=REPOSITORY, timeout=60)
