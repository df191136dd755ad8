"""The torch loader, on real modules exported and saved here."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from hostd_workers.api import MissingDependencyError
from hostd_workers.loaders.torch import load
from hostd_workers.wire.codec import decode, encode
from hostd_workers.wire.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError

torch = pytest.importorskip("torch", reason="tests with real PyTorch modules")
np = pytest.importorskip("numpy", reason="arrays go in and come out")

pytestmark = [
    pytest.mark.heavy_loader,
    # TorchScript is deprecated and read all the same: there are many such files.
    pytest.mark.filterwarnings("ignore:`torch.jit.* is deprecated:DeprecationWarning"),
]

ROWS = np.arange(6, dtype="float32").reshape(2, 3)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)

    def forward(self, x):
        return self.layer(x)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def expected(net):
    return net(torch.from_numpy(ROWS)).detach().numpy()


def save_script(module, file):
    torch.jit.save(torch.jit.script(module), str(file))
    return str(file)


def save_exported(module, file, *args, **kwargs):
    torch.export.save(torch.export.export(module.eval(), args, **kwargs), str(file))
    return str(file)


@pytest.fixture(scope="module", params=["script", "exported"])
def saved(request, net, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param)
    if request.param == "script":
        return save_script(net, directory / "net.pt")
    rows = torch.export.Dim("rows")
    return save_exported(net, directory / "net.pt2", torch.zeros(2, 3), dynamic_shapes={"x": {0: rows}})


def test_a_saved_module_predicts_as_it_does_in_process(saved, expected):
    result = load(saved)
    assert (result.methods, result.default) == (("predict", "describe"), "predict")
    assert np.allclose(result.model.predict(ROWS), expected)
    assert np.allclose(result.model.predict(x=ROWS), expected)
    assert np.allclose(result.model.predict(ROWS[:1].tolist()), expected[:1])
    assert result.model.describe()["inputs"][0]["name"] == "x"
    assert "x" in repr(result.model)
    assert np.allclose(decode(*encode(result.model.predict(ROWS))), expected)


def test_a_directory_is_loaded_by_its_one_file_and_a_suffix_does_not_count(saved, expected, tmp_path):
    assert np.allclose(load(os.path.dirname(saved)).model.predict(ROWS), expected)
    other = tmp_path / "renamed.pth"
    other.write_bytes(Path(saved).read_bytes())
    assert np.allclose(load(str(tmp_path)).model.predict(ROWS), expected)


def test_an_input_may_be_read_only_reversed_or_of_another_byte_order(saved, expected):
    model = load(saved).model
    rows = ROWS.copy()
    rows.flags.writeable = False
    assert np.allclose(model.predict(rows), expected)
    assert np.allclose(model.predict(ROWS.astype(">f4")), expected)
    assert np.allclose(model.predict(ROWS[::-1]), expected[::-1])
    assert np.allclose(model.predict(np.asfortranarray(ROWS)), expected)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {}),
        ((ROWS, ROWS), {}),
        ((), {"y": ROWS}),
        ((ROWS,), {"x": ROWS}),
        ((ROWS.astype("float64"),), {}),
        (("text",), {}),
        ((np.array(["text"]),), {}),
        ((np.array(["2024-01-01"], "M8[D]"),), {}),
        (([[1.0], [2.0, 3.0]],), {}),
        ((None,), {}),
        (({"a": 1},), {}),
    ],
)
def test_wrong_inputs_are_the_callers_error(saved, args, kwargs):
    with pytest.raises(InvalidArgumentError):
        load(saved).model.predict(*args, **kwargs)


def test_an_exported_program_knows_the_sizes_and_dtypes_of_its_inputs(net, tmp_path):
    rows = torch.export.Dim("rows")
    path = save_exported(net, tmp_path / "n.pt2", torch.zeros(2, 3), dynamic_shapes={"x": {0: rows}})
    model = load(path).model
    assert model.describe() == {
        "kind": "exported",
        "inputs": [{"name": "x", "dtype": "float32", "shape": [None, 3]}],
    }
    says = r"'x' expected float32 of shape \(\?, 3\), got float32 of shape \(2, 2\)"
    with pytest.raises(InvalidArgumentError, match=says):
        model.predict(ROWS[:, :2])
    with pytest.raises(InvalidArgumentError, match=r"got float32 of shape \(3,\)"):
        model.predict(ROWS[0])
    with pytest.raises(InvalidArgumentError, match="got float64"):
        model.predict(ROWS.astype("float64"))
    assert model.predict([[1, 2, 3]]).shape == (1, 2)  # whole numbers in a list are numbers


def test_a_torchscript_model_that_is_given_another_dtype_says_what_it_computes_in(net, tmp_path):
    model = load(save_script(net, tmp_path / "n.pt")).model
    with pytest.raises(InvalidArgumentError, match="computes in float32, got float64; convert"):
        model.predict(ROWS.astype("float64"))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        model.predict(ROWS[:, :2])


class Many(torch.nn.Module):
    def forward(self, x, scale: float = 2.0, shift: torch.Tensor | None = None):
        y = x * scale
        if shift is not None:
            y = y + shift
        return {"pair": (y, y.sum()), "all": [y, y + 1]}, scale


def test_numbers_optional_tensors_maps_and_tuples_pass_through_torchscript(tmp_path):
    model = load(save_script(Many(), tmp_path / "many.pt")).model
    found, scale = model.predict(ROWS, np.float32(3.0), shift=ROWS)
    assert scale == 3.0
    assert np.array_equal(found["pair"][0], ROWS * 4)
    assert np.array_equal(found["all"][1], ROWS * 4 + 1)
    assert isinstance(found["pair"], tuple)
    assert isinstance(found["all"], list)
    assert np.array_equal(model.predict(ROWS, shift=None)[0]["pair"][0], ROWS * 2)
    decode(*encode(model.predict(ROWS)))
    with pytest.raises(InvalidArgumentError, match=r"argument 'scale'.*str"):
        model.predict(ROWS, "two")


class Structured(torch.nn.Module):
    def forward(self, pair, named):
        return {"sum": pair[0] + pair[1] + named["c"]}


def test_an_exported_program_may_take_its_tensors_in_lists_and_maps(tmp_path):
    zeros = torch.zeros(2, 3)
    model = load(save_exported(Structured(), tmp_path / "s.pt2", [zeros, zeros], {"c": zeros})).model
    assert np.array_equal(model.predict([ROWS, ROWS], {"c": ROWS})["sum"], 3 * ROWS)
    for args in [(), ([ROWS], {"c": ROWS}), ([ROWS, ROWS], {"d": ROWS}), ([ROWS[:1], ROWS], {"c": ROWS})]:
        with pytest.raises(InvalidArgumentError, match="refused its inputs"):
            model.predict(*args)


def test_an_exported_program_keeps_keywords_and_constants(tmp_path):
    class Keyword(torch.nn.Module):
        def forward(self, x, times: int, *, shift):
            return x * times + shift

    zeros = torch.zeros(2, 3)
    model = load(save_exported(Keyword(), tmp_path / "k.pt2", zeros, 2, kwargs={"shift": zeros})).model
    assert np.array_equal(model.predict(ROWS, np.int64(2), shift=ROWS), 3 * ROWS)
    with pytest.raises(InvalidArgumentError, match="missing"):
        model.predict(ROWS, 2)


class Exotic(torch.nn.Module):
    def forward(self, x):
        half = x.to(torch.bfloat16)
        return half, x.to(torch.float16), x.to_sparse(), x.to(torch.complex64).conj(), x.to(torch.bool), x[0, 1]


def test_what_numpy_has_no_dtype_for_comes_as_float32(tmp_path):
    model = load(save_script(Exotic(), tmp_path / "e.pt")).model
    results = model.predict(ROWS)
    assert [result.dtype.name for result in results] == [
        "float32",
        "float16",
        "float32",
        "complex64",
        "bool",
        "float32",
    ]
    assert np.array_equal(results[0], ROWS)
    assert np.array_equal(results[2], ROWS)
    assert results[5] == ROWS[0, 1]
    decode(*encode(results))


def test_a_model_in_bfloat16_takes_float32(tmp_path):
    net = Net().eval().to(torch.bfloat16)
    model = load(save_exported(net, tmp_path / "b.pt2", torch.zeros(2, 3, dtype=torch.bfloat16))).model
    result = model.predict(ROWS)
    assert (result.dtype, result.shape) == (np.dtype("float32"), (2, 2))
    with pytest.raises(InvalidArgumentError, match="expected bfloat16"):
        model.predict(ROWS.astype("float64"))


class InPlace(torch.nn.Module):
    def forward(self, x):
        return x.add_(1)


def test_a_model_that_writes_into_its_input_does_not_write_into_the_callers(tmp_path):
    model = load(save_script(InPlace(), tmp_path / "i.pt")).model
    rows = ROWS.copy()
    assert np.array_equal(model.predict(rows), ROWS + 1)
    assert np.array_equal(rows, ROWS)


def test_weights_alone_are_refused_and_say_what_to_write(net, tmp_path):
    torch.save(net.state_dict(), tmp_path / "zip.pth")
    torch.save(net.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("zip.pth", "old.pth"):
        with pytest.raises(InvalidArgumentError, match=r"bare state dict \(layer\.weight, layer\.bias\).*model\.py"):
            load(str(tmp_path / name))
    torch.save(torch.zeros(3), tmp_path / "one.pt")
    with pytest.raises(InvalidArgumentError, match="holds a Tensor"):
        load(str(tmp_path / "one.pt"))


class Trap:
    def __reduce__(self):
        return os.mkdir, (Trap.path,)


def test_a_pickled_object_is_refused_and_not_run(tmp_path):
    Trap.path = str(tmp_path / "ran")
    torch.save({"model": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(InvalidArgumentError, match=r"pickled Python object, and loading it would run its code"):
        load(str(tmp_path / "trap.pt"))
    assert not os.path.exists(Trap.path)


@pytest.mark.parametrize("name", ["m.pt", "m.pt2", "m.pth"])
@pytest.mark.parametrize("content", [b"", b"this is no model", b"PK\x05\x06" + bytes(18)])
def test_a_damaged_file_is_refused_by_its_name(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidArgumentError, match=rf"{name} cannot be loaded"):
        load(str(tmp_path))


def test_a_file_cut_short_anywhere_is_refused(saved, tmp_path):
    content = Path(saved).read_bytes()
    file = tmp_path / os.path.basename(saved)
    for size in range(1, len(content), len(content) // 20):
        file.write_bytes(content[:size])
        with pytest.raises(InvalidArgumentError, match="cannot be loaded"):
            load(str(file))


def test_the_number_of_threads_is_set_for_threads_to_come_too(saved, monkeypatch):
    before = torch.get_num_threads()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "7")
    try:
        load(saved, threads=1)
        assert torch.get_num_threads() == 1
        assert (os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"]) == ("1", "1")
        load(saved)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_the_number_of_threads_is_what_the_host_allots_unless_told_otherwise(saved, monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setenv("HOSTD_CPU_THREADS", "1")
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    try:
        load(saved)
        assert torch.get_num_threads() == 1
        load(saved, threads=2)
        assert torch.get_num_threads() == 2
        monkeypatch.setenv("OMP_NUM_THREADS", "7")
        load(saved)
        assert torch.get_num_threads() == 2, "somebody has set it for OpenMP, which is PyTorch's own business"
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [0, -1, "2", True, 1.5])
def test_threads_must_be_a_number(saved, threads):
    with pytest.raises(InvalidArgumentError, match="threads must be a number from 1 on"):
        load(saved, threads=threads)


def test_a_device_that_is_not_there_is_a_typed_error(saved):
    with pytest.raises(InvalidArgumentError, match="no device 'graphics'"):
        load(saved, device="graphics")
    with pytest.raises(InvalidArgumentError, match="device must be a name"):
        load(saved, device=0)
    with pytest.raises(FailedPreconditionError, match="'cuda:99' cannot be used here"):
        load(saved, device="cuda:99")


def test_missing_things_are_typed_errors(saved, tmp_path, monkeypatch):
    with pytest.raises(NotFoundError, match="absent"):
        load(str(tmp_path / "absent.pt"))
    with pytest.raises(InvalidArgumentError, match=r"no \*\.pt2 or \*\.pt"):
        load(str(tmp_path))
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependencyError, match=r"'torch'.*install it with.*torch"):
        load(saved)
