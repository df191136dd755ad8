"""How to install what is missing: the command that works for the interpreter that runs this.

Covers whichever way this package came there (PEP 610, `direct_url.json`): a checkout, a wheel, a repository, an index.
An interpreter that is only named by `python:` does not have the package, so there the libraries themselves are named.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import shlex
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

from hostd_workers.wire.errors import FailedPreconditionError

PACKAGE = "hostd"

_HTTP = ("numpy", "orjson", "starlette", "python-multipart", "uvicorn", "httptools", "uvloop")

EXTRAS: dict[str, tuple[str, ...]] = {
    "sklearn": ("numpy", "scikit-learn", "joblib", "skops"),
    "onnx": ("numpy", "onnxruntime"),
    "torch": ("numpy", "torch"),
    "transformers": ("numpy", "torch", "transformers"),
    "xgboost": ("numpy", "xgboost"),
    "lightgbm": ("numpy", "lightgbm"),
    "mlflow": ("numpy", "pandas", "mlflow-skinny"),
    "http": _HTTP,
    "grpc": ("numpy", "orjson", "hpack", "protobuf", "uvloop"),
    "caikit": ("numpy", "threadpoolctl", "caikit[runtime-grpc,runtime-http]"),
    "gpu": ("nvidia-ml-py",),
    "demo": ("numpy", "scikit-learn", "joblib"),
    "bench": (*_HTTP, "scikit-learn", "joblib", "matplotlib"),
}
"""The packages that each extra brings, by the names that pip knows."""

_PACKAGES = {
    "sklearn": "scikit-learn",
    "skimage": "scikit-image",
    "mlflow": "mlflow-skinny",
    "pynvml": "nvidia-ml-py",
    "zmq": "pyzmq",
    "grpc": "grpcio",
    "yaml": "PyYAML",
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "bs4": "beautifulsoup4",
    "dateutil": "python-dateutil",
    "attr": "attrs",
    "Crypto": "pycryptodome",
    "sentence_transformers": "sentence-transformers",
}
"""Of modules that come in a package of another name."""


def install_extras(*extras: str) -> str:
    """Return the command that brings these extras of this package to this interpreter."""
    requirement = _requirement(",".join(extras))
    if requirement is None:
        wanted = dict.fromkeys(package for extra in extras for package in EXTRAS.get(extra, (extra,)))
        return pip_install(*wanted)
    return pip_install(*requirement)


def install_modules(*modules: str) -> str:
    """Return the command that brings the packages of these modules to this interpreter."""
    return pip_install(*dict.fromkeys(_PACKAGES.get(name, name) for name in modules))


def pip_install(*arguments: str) -> str:
    """Return the command that installs into this interpreter what these arguments of `pip install` say."""
    words = [sys.executable, "-m", "pip", "install"]
    if importlib.util.find_spec("pip") is None:  # as uv makes environments
        words = ["uv", "pip", "install", "--python", sys.executable]
    return shlex.join([*words, *arguments])


@functools.lru_cache
def _requirement(extras: str) -> tuple[str, ...] | None:
    """Return what to tell pip to have these extras too.

    None if no installer brought the package, or if what it was installed from is gone. Whatever an installer brought
    has a file INSTALLER; what merely lies on `sys.path`, such as a checkout, does not.
    """
    from importlib import metadata  # noqa: PLC0415 - 25 ms that a worker which lacks nothing does not pay

    installed = next((one for one in metadata.distributions(name=PACKAGE) if one.read_text("INSTALLER")), None)
    if installed is None:
        return None
    named = f"{PACKAGE}[{extras}]"
    origin = json.loads(installed.read_text("direct_url.json") or "{}")
    url = str(origin.get("url", ""))
    if not url:
        return (named,)
    if urlsplit(url).scheme == "file":
        place = unquote(urlsplit(url).path)
        if not Path(place).exists():
            return None
        is_editable = bool(origin.get("dir_info", {}).get("editable"))
        return (*(["-e"] if is_editable else []), f"{place}[{extras}]")
    vcs = origin.get("vcs_info", {})
    prefix, commit = (f"{vcs['vcs']}+", f"@{vcs['commit_id']}") if vcs else ("", "")
    below = f"#subdirectory={origin['subdirectory']}" if "subdirectory" in origin else ""
    return (f"{named} @ {prefix}{url}{commit}{below}",)


class MissingDependencyError(FailedPreconditionError):
    """A loader needs a library that the worker's interpreter does not have."""

    def __init__(self, library: str, extra: str) -> None:
        """Name the `library` that is missing and the `extra` of this package that brings it."""
        super().__init__(
            f"this model needs the library {library!r}, which {sys.executable} does not have; install it with: "
            f"{install_extras(extra)}",
            details={"library": library, "extra": extra},
        )
