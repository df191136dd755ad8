"""Tensors in shared memory: registered, read and written over HTTP and over gRPC, and whatever must not be reached."""

import contextlib
import os
import uuid
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tritonclient.grpc", reason="asked as its clients do")

import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
import tritonclient.utils.shared_memory as shm
from grpc_rig import target_of
from oip_rig import Front
from tritonclient.utils import InferenceServerException, serialize_byte_tensor

import hostd
from hostd import PermissionDeniedError
from hostd.fronts.errors import IS_TRUSTED
from hostd.fronts.oip.requests import Place
from hostd.fronts.oip.shm import Regions

BYTES = 32


@pytest.fixture(scope="module")
def fronts():
    return {"grpc": 0, "max_body_bytes": 4096, "anonymous": "load"}


@pytest.fixture(scope="module")
def front(fronted, fronts):
    """The HTTP front, with the same limit."""
    with Front(fronted.endpoint, max_body_bytes=fronts["max_body_bytes"]) as running:
        yield running


@pytest.fixture(scope="module", params=["http", "grpc"])
def triton(request):
    """Triton's client library for each of the fronts."""
    return {"http": triton_http, "grpc": triton_grpc}[request.param]


@pytest.fixture
def asking(triton, request, fronted):
    """Its client; what it has registered is forgotten after the test."""
    target = request.getfixturevalue("front").url if triton is triton_http else target_of(fronted)
    with triton.InferenceServerClient(target) as client:
        yield client
        client.unregister_system_shared_memory()


@pytest.fixture
def made(no_tracker):
    """Make memory with a key of its own, which goes after the test."""
    with contextlib.ExitStack() as stack:

        def make(byte_size=BYTES):
            key = f"hostd-test-{uuid.uuid4().hex}"
            handle = shm.create_shared_memory_region(key, key, byte_size)
            stack.callback(shm.destroy_shared_memory_region, handle)
            return key, handle

        yield make


def placed(triton, name, region, size=BYTES, shape=(4,), datatype="FP64", offset=0):
    tensor = triton.InferInput(name, list(shape), datatype)
    tensor.set_shared_memory(region, size, offset)
    return tensor


def wanted(triton, region, size=BYTES, offset=0):
    output = triton.InferRequestedOutput("output_0")
    output.set_shared_memory(region, size, offset)
    return [output]


def regions_of(client):
    found = client.get_system_shared_memory_status()
    if isinstance(found, list):
        return {region["name"]: (region["key"], region["offset"], region["byte_size"]) for region in found}
    return {name: (region.key, region.offset, region.byte_size) for name, region in found.regions.items()}


def test_tensors_go_and_come_in_shared_memory(triton, asking, made):
    key, handle = made(2 * BYTES)
    values = np.array([0.5, -1.0, 2.0, 1e300])
    shm.set_shared_memory_region(handle, [values])
    asking.register_system_shared_memory("both", f"/{key}", 2 * BYTES)
    result = asking.infer("kinds", [placed(triton, "x", "both")], outputs=wanted(triton, "both", offset=BYTES))
    back = shm.get_contents_as_numpy(handle, np.float64, [4], offset=BYTES)
    assert back.tolist() == values.tolist()
    output = result.get_output("output_0")
    parameters = output["parameters"] if isinstance(output, dict) else output.parameters
    assert set(parameters) == {"shared_memory_region", "shared_memory_byte_size", "shared_memory_offset"}


def test_an_output_beside_one_in_shared_memory_is_found_by_clients(triton, asking, made):
    key, handle = made()
    asking.register_system_shared_memory("sum", key, BYTES)
    inputs = [triton.InferInput(n, [4], "FP64").set_data_from_numpy(np.full(4, float(ord(n)))) for n in "ab"]
    outputs = [triton.InferRequestedOutput(name) for name in ("sum", "difference")]
    outputs[0].set_shared_memory("sum", BYTES)
    result = asking.infer("kinds", inputs, outputs=outputs, parameters={"method": "both"})
    assert result.as_numpy("difference").tolist() == [-1.0] * 4
    assert shm.get_contents_as_numpy(handle, np.float64, [4]).tolist() == [195.0] * 4


def test_strings_and_a_region_amid_a_file_are_read(triton, asking, made):
    texts = np.array([b"Ada", "Zoë".encode()], object)
    key, handle = made(128)
    shm.set_shared_memory_region(handle, [serialize_byte_tensor(texts)], offset=64)
    asking.register_system_shared_memory("texts", key, 64, offset=64)
    size = sum(4 + len(element) for element in texts)
    result = asking.infer("kinds", [placed(triton, "x", "texts", size, [2], "BYTES")])
    assert result.as_numpy("output_0").tolist() == texts.tolist()


def test_regions_are_listed_and_forgotten(asking, made):
    keys = [made()[0] for _ in range(3)]
    for number, key in enumerate(keys):
        asking.register_system_shared_memory(f"r{number}", key, 16, offset=8)
    assert regions_of(asking) == {f"r{number}": (key, 8, 16) for number, key in enumerate(keys)}
    with pytest.raises(InferenceServerException, match="region 'r0' already in manager"):
        asking.register_system_shared_memory("r0", keys[0], 16)
    asking.unregister_system_shared_memory("r0")
    asking.unregister_system_shared_memory("never")
    assert set(regions_of(asking)) == {"r1", "r2"}
    asking.unregister_system_shared_memory()
    assert regions_of(asking) == {}
    with pytest.raises(InferenceServerException, match="Unable to find shared memory region: 'r0'"):
        asking.get_system_shared_memory_status("r0")


def test_a_region_that_is_truncated_is_an_error_of_the_request_and_not_the_end_of_the_front(triton, asking, made):
    key, _ = made()
    asking.register_system_shared_memory("cut", key, BYTES)
    os.truncate(f"/dev/shm/{key}", 8)
    for inputs, outputs in (
        ([placed(triton, "x", "cut")], None),
        ([triton.InferInput("x", [4], "FP64").set_data_from_numpy(np.zeros(4))], wanted(triton, "cut")),
    ):
        with pytest.raises(InferenceServerException, match=f"region 'cut' is {BYTES} bytes from 0 on.* has 8 bytes"):
            asking.infer("kinds", inputs, outputs=outputs)
    assert Path(f"/dev/shm/{key}").stat().st_size == 8, "nothing was written behind its end"
    assert asking.is_server_live()


def test_what_does_not_fit_a_region_is_told(triton, asking, made):
    key, _ = made(16384)
    asking.register_system_shared_memory("r", key, 16384)
    for inputs, outputs, words in (
        ([placed(triton, "x", "r", 8)], None, "got 8 bytes, expected 32, by its datatype FP64"),
        ([placed(triton, "x", "r", 32, offset=16384)], None, "expected to be within shared memory region 'r' of 16384"),
        ([placed(triton, "x", "r", 8192, [1024])], None, "a request reads at most 4096 bytes of shared memory"),
        ([placed(triton, n, "r", 2400, [300]) for n in "ab"], None, "a request reads at most 4096 bytes"),
        ([placed(triton, "x", "r")], wanted(triton, "r", 8), r"\(8 bytes\) should be at least 32 bytes to hold"),
        ([placed(triton, "x", "nix")], None, "Unable to find shared memory region: 'nix'"),
    ):
        with pytest.raises(InferenceServerException, match=words):
            asking.infer("kinds", inputs, outputs=outputs)


@pytest.mark.parametrize("key", ["", "/", "../etc/passwd", "a/b", "//a", ".", "..", "a.b", "a\0b", "ä", "x" * 256])
def test_keys_that_are_no_plain_names_are_refused(asking, key):
    with pytest.raises(InferenceServerException, match="expected one name in /dev/shm"):
        asking.register_system_shared_memory("r", key, 8)


def test_memory_of_others_links_and_what_is_no_memory_are_refused(asking, made):
    key, _ = made()
    paths = {name: Path(f"/dev/shm/{key}-{name}") for name in ("link", "directory", "foreign")}
    try:
        paths["link"].symlink_to(f"/dev/shm/{key}")
        paths["directory"].mkdir()
        paths["foreign"].write_bytes(bytes(BYTES))
        if os.geteuid() == 0:
            os.chown(paths["foreign"], 65534, 65534)
        else:
            paths["foreign"].chmod(0)
        for name, path in paths.items():
            with pytest.raises(InferenceServerException, match=r"cannot be opened|is not this host's user's"):
                asking.register_system_shared_memory(name, path.name, BYTES)
    finally:
        for path in paths.values():
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    with pytest.raises(InferenceServerException, match="there is no shared memory"):
        asking.register_system_shared_memory("gone", f"{key}-gone", BYTES)
    for byte_size, offset in ((BYTES + 1, 0), (BYTES, 8)):
        with pytest.raises(InferenceServerException, match=f"and {key} has {BYTES} bytes"):
            asking.register_system_shared_memory("large", key, byte_size, offset)
    assert regions_of(asking) == {}


def test_regions_are_bounded(asking, made):
    key, _ = made()
    for number in range(256):
        asking.register_system_shared_memory(str(number), key, BYTES)
    with pytest.raises(InferenceServerException, match="256 shared memory regions are registered"):
        asking.register_system_shared_memory("more", key, BYTES)


def test_without_the_right_to_load_nobody_registers_or_uses_memory(fronted, front, asking, triton, made):
    key, _ = made()
    asking.register_system_shared_memory("r", key, BYTES)
    regions = Regions(4096)
    regions.register("r", key, 0, BYTES)
    try:
        token = IS_TRUSTED.set(False)
        with pytest.raises(PermissionDeniedError, match="input 'x': to use shared memory needs the role load"):
            regions.reading()(Place("r", 0, 4), "input 'x'")
        with pytest.raises(PermissionDeniedError, match="output 'y': to use"):
            regions.write(Place("r", 0, 4), b"abcd", "output 'y'")
    finally:
        IS_TRUSTED.reset(token)
        regions.unregister()
    with hostd.Host(fronts={"grpc": 0, "http": 0}) as closed:
        target = target_of(closed) if triton is triton_grpc else closed.client().host_info().fronts["http"][7:]
        with triton.InferenceServerClient(target) as client:
            with pytest.raises(InferenceServerException, match="needs the role load"):
                client.register_system_shared_memory("r", key, BYTES)
