"""What is no model, whatever would load it: what downloads and copies leave in a file's place."""

import io
import json
import os
import pickle
import struct
import zipfile

import pytest

from hostd_workers.loaders._common.flaws import flaw_of, flaws_below
from hostd_workers.loaders._common.opening import model_file
from hostd_workers.plugins import load_with
from hostd_workers.wire.errors import InvalidArgumentError, NotFoundError

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 123456\n"
PAGE = b"\xef\xbb\xbf\n<!DOCTYPE html>\n<html><head><title>Sign in</title>"
DENIED = b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>'
SUFFIXES = {
    "sklearn": "joblib pkl pickle skops",
    "onnx": "onnx",
    "torch": "pt pt2 pth ts",
    "xgboost": "json ubj xgb",
    "lightgbm": "lgb txt",
}
NO_MODELS = {
    "pointer": (LFS, r"a pointer of Git LFS, not the file itself \(of 123456 bytes\): run 'git lfs pull'"),
    "old pointer": (LFS[:50], "a pointer of Git LFS, not the file itself"),
    "page": (PAGE, r"a web page \(Sign in\)"),
    "denied": (DENIED, r"a web page \(AccessDenied\)"),
    "empty": (b"", r"is empty \(0 bytes\): copy or download it again"),
}


def archive():
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        file.writestr("schema.json", "{}" * 900)
    return made.getvalue()


def safetensors(size):
    header = json.dumps({"__metadata__": {}, "w": {"dtype": "U8", "shape": [100], "data_offsets": [0, 100]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(size)


# Fields of each kind: a number, a part of 200 bytes, one of 8 and one of 4 bytes.
PROTOBUF = b"\x08\x09" + b"\x3a\xc8\x01" + bytes(200) + b"\x11" + bytes(8) + b"\x1d" + bytes(4)


@pytest.mark.parametrize(("loader", "suffix"), [(one, suffix) for one in SUFFIXES for suffix in SUFFIXES[one].split()])
@pytest.mark.parametrize("what", NO_MODELS)
def test_what_is_no_model_is_named_before_any_library_sees_it(tmp_path, monkeypatch, loader, suffix, what):
    content, says = NO_MODELS[what]
    name = f"m.{suffix}"
    if suffix == "txt" and b"<" in content:
        return  # a text may begin with a tag
    monkeypatch.setattr("hostd_workers.loaders._common.opening.import_library", None)
    (tmp_path / name).write_bytes(content)
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(InvalidArgumentError, match=says) as caught:
            load_with(loader, str(path), {})
        assert caught.value.details["path"] == str(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("m.skops", archive()),
        ("m.pt", archive()),
        ("m.npz", archive()),
        ("m.onnx", PROTOBUF),
        ("m.json", b'{"learner": [1, 2]}'),
        ("m.safetensors", safetensors(100)),
    ],
)
def test_a_file_that_ends_too_early_is_told_from_a_whole_one(tmp_path, name, whole):
    file = tmp_path / name
    file.write_bytes(whole)
    assert flaw_of(file, has_failed=True) is None
    for size in (7, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        assert f"ends too early, after {size} bytes" in str(flaw_of(file)), size


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.onnx", b"\x08\x09\x0f" * 40),
        ("m.onnx", b"x"),
        ("m.safetensors", struct.pack("<Q", 2) + b"[]"),
        ("m.safetensors", struct.pack("<Q", 1 << 40) + bytes(9)),
        ("m.json", b"no json"),
    ],
)
def test_what_is_of_another_format_is_left_to_the_loader(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert flaw_of(tmp_path / name, has_failed=True) is None


def test_what_only_looks_wrong_is_said_after_the_load_has_failed(tmp_path):
    whole = pickle.dumps([b"weights"] * 9)
    for name, content, says in (
        ("m.pkl", whole[:-1], "seems to end too early"),
        ("m.joblib", b"Entry not found", "is only a text ('Entry not found')"),
        ("m.pt", b'{"error": "Repository not found"}\n', "is only a text"),
    ):
        file = tmp_path / name
        file.write_bytes(content)
        assert flaw_of(file) is None
        assert says in str(flaw_of(file, has_failed=True))
        file.unlink()
    (tmp_path / "m.pkl").write_bytes(whole)
    (tmp_path / "protocol 0.pkl").write_bytes(pickle.dumps({"a": 1}, 0))
    assert list(flaws_below(str(tmp_path))) == []


def test_a_failed_load_looks_at_what_should_hold_something_only(tmp_path):
    nothing = ["pages/index.html", "pages/__init__.py", "notes.txt", ".hidden.bin", ".git/m.bin"]
    for name, content in {
        **dict.fromkeys(nothing, PAGE),
        "pages/__init__.py": b"",
        "data/w.bin": b"",
        "a.h5": PAGE,
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "gone.bin").symlink_to("nowhere")
    seen = sorted(flaws_below(str(tmp_path)))
    assert [line.partition(": ")[0].removeprefix(f"{tmp_path}/") for line in seen] == [
        "a.h5 is a web page (Sign in), not a model",
        "data/w.bin is empty (0 bytes)",
    ]


def test_what_is_no_regular_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "m.pkl")
    assert flaw_of(tmp_path / "m.pkl") is None
    with pytest.raises(NotFoundError):
        model_file(str(tmp_path / "absent.pkl"), None, (".pkl",))
