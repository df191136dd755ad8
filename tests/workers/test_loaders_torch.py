"""The torch loader, on real modules exported and saved here."""

import os
from pathlib import Path

import pytest
from loading_rig import cut_short, over_the_wire, refused

from hostd_workers.loaders.torch import load
from hostd_workers.wire.errors import FailedPreconditionError

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


@pytest.fixture
def model(saved):
    return load(saved).model


def test_a_saved_module_predicts_as_it_does_in_process(saved, expected):
    result = load(saved)
    assert (result.methods, result.default) == (("predict", "describe"), "predict")
    assert np.allclose(result.model.predict(ROWS), expected)
    assert np.allclose(result.model.predict(x=ROWS), expected)
    assert np.allclose(result.model.predict(ROWS[:1].tolist()), expected[:1])
    assert result.model.describe()["inputs"][0]["name"] == "x"
    assert "x" in repr(result.model)
    assert np.allclose(over_the_wire(result.model.predict(ROWS)), expected)


def test_a_directory_is_loaded_by_its_one_file_and_a_suffix_does_not_count(saved, expected, tmp_path):
    assert np.allclose(load(os.path.dirname(saved)).model.predict(ROWS), expected)
    (tmp_path / "renamed.pth").write_bytes(Path(saved).read_bytes())
    assert np.allclose(load(str(tmp_path)).model.predict(ROWS), expected)


def test_an_input_may_be_read_only_reversed_or_of_another_byte_order(model, expected):
    rows = ROWS.copy()
    rows.flags.writeable = False
    for given in (rows, ROWS.astype(">f4"), np.asfortranarray(ROWS)):
        assert np.allclose(model.predict(given), expected)
    assert np.allclose(model.predict(ROWS[::-1]), expected[::-1])


NO_TENSORS = ["text", np.array(["text"]), np.array(["2024-01-01"], "M8[D]"), [[1.0], [2.0, 3.0]], None, {"a": 1}]


def test_wrong_inputs_are_the_callers_error(model):
    for value in (ROWS.astype("float64"), *NO_TENSORS):
        refused(".", model.predict, value)
    for args, kwargs in (((), {}), ((ROWS, ROWS), {}), ((), {"y": ROWS}), ((ROWS,), {"x": ROWS})):
        refused(".", model.predict, *args, **kwargs)


def test_what_a_model_knows_of_its_inputs_it_says(model):
    if model.describe()["kind"] == "exported":
        inputs = [{"name": "x", "dtype": "float32", "shape": [None, 3]}]
        assert model.describe() == {"kind": "exported", "inputs": inputs}
        says = r"'x' expected float32 of shape \(\?, 3\), got float32 of shape \(2, 2\)"
        refused(says, model.predict, ROWS[:, :2])
        refused(r"got float32 of shape \(3,\)", model.predict, ROWS[0])
        refused("got float64", model.predict, ROWS.astype("float64"))
        assert model.predict([[1, 2, 3]]).shape == (1, 2)  # whole numbers in a list are numbers
    else:
        refused("computes in float32, got float64; convert", model.predict, ROWS.astype("float64"))
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
    over_the_wire(model.predict(ROWS))
    refused(r"argument 'scale'.*str", model.predict, ROWS, "two")


class Structured(torch.nn.Module):
    def forward(self, pair, named):
        return {"sum": pair[0] + pair[1] + named["c"]}


def test_an_exported_program_may_take_its_tensors_in_lists_and_maps(tmp_path):
    zeros = torch.zeros(2, 3)
    model = load(save_exported(Structured(), tmp_path / "s.pt2", [zeros, zeros], {"c": zeros})).model
    assert np.array_equal(model.predict([ROWS, ROWS], {"c": ROWS})["sum"], 3 * ROWS)
    for args in [(), ([ROWS], {"c": ROWS}), ([ROWS, ROWS], {"d": ROWS}), ([ROWS[:1], ROWS], {"c": ROWS})]:
        refused("refused its inputs", model.predict, *args)


def test_an_exported_program_keeps_keywords_and_constants(tmp_path):
    class Keyword(torch.nn.Module):
        def forward(self, x, times: int, *, shift):
            return x * times + shift

    zeros = torch.zeros(2, 3)
    model = load(save_exported(Keyword(), tmp_path / "k.pt2", zeros, 2, kwargs={"shift": zeros})).model
    assert np.array_equal(model.predict(ROWS, np.int64(2), shift=ROWS), 3 * ROWS)
    refused("missing", model.predict, ROWS, 2)


class Exotic(torch.nn.Module):
    def forward(self, x):
        half = x.to(torch.bfloat16)
        return half, x.to(torch.float16), x.to_sparse(), x.to(torch.complex64).conj(), x.to(torch.bool), x[0, 1]


def test_what_numpy_has_no_dtype_for_comes_as_float32(tmp_path):
    model = load(save_script(Exotic(), tmp_path / "e.pt")).model
    results = model.predict(ROWS)
    names = "float32 float16 float32 complex64 bool float32"
    assert [result.dtype.name for result in results] == names.split()
    assert np.array_equal(results[0], ROWS)
    assert np.array_equal(results[2], ROWS)
    assert results[5] == ROWS[0, 1]
    over_the_wire(results)


def test_a_model_in_bfloat16_takes_float32(tmp_path):
    net = Net().eval().to(torch.bfloat16)
    model = load(save_exported(net, tmp_path / "b.pt2", torch.zeros(2, 3, dtype=torch.bfloat16))).model
    result = model.predict(ROWS)
    assert (result.dtype, result.shape) == (np.dtype("float32"), (2, 2))
    refused("expected bfloat16", model.predict, ROWS.astype("float64"))


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
    torch.save(torch.zeros(3), tmp_path / "one.pt")
    for name in ("zip.pth", "old.pth"):
        refused(r"bare state dict \(layer\.weight, layer\.bias\).*model\.py", load, str(tmp_path / name))
    refused("holds a Tensor", load, str(tmp_path / "one.pt"))


class Trap:
    def __reduce__(self):
        return os.mkdir, (Trap.path,)


def test_a_pickled_object_is_refused_and_not_run(tmp_path):
    Trap.path = str(tmp_path / "ran")
    torch.save({"model": Trap()}, tmp_path / "trap.pt")
    refused(r"pickled Python object, and loading it would run its code", load, str(tmp_path / "trap.pt"))
    assert not os.path.exists(Trap.path)


@pytest.mark.parametrize("name", ["m.pt", "m.pt2", "m.pth"])
def test_a_damaged_file_is_refused_by_its_name(tmp_path, name):
    for content in (b"", b"this is no model", b"PK\x05\x06" + bytes(18)):
        (tmp_path / name).write_bytes(content)
        refused(rf"{name} cannot be loaded", load, str(tmp_path))


def test_a_file_cut_short_anywhere_is_refused(saved, tmp_path):
    content = Path(saved).read_bytes()
    for path in cut_short(tmp_path / os.path.basename(saved), content, range(1, len(content), len(content) // 20)):
        refused("cannot be loaded", load, path)


def test_the_number_of_threads_is_what_the_host_allots_unless_told_otherwise(saved, monkeypatch):
    def threads(**options):
        load(saved, **options)
        return torch.get_num_threads()

    def environment(openmp, **more):
        for name, value in {"OMP_NUM_THREADS": openmp, "MKL_NUM_THREADS": openmp, **more}.items():
            monkeypatch.setenv(name, value)

    before = torch.get_num_threads()
    try:
        environment("7")
        assert threads(threads=1) == 1
        assert (os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"]) == ("1", "1"), "for those to come"
        assert threads() == 1
        environment("1", HOSTD_CPU_THREADS="1")
        assert (threads(), threads(threads=2)) == (1, 2)
        monkeypatch.setenv("OMP_NUM_THREADS", "7")
        assert threads() == 2, "somebody has set it for OpenMP, which is PyTorch's own business"
    finally:
        torch.set_num_threads(before)


def test_a_device_that_is_not_there_is_a_typed_error(saved):
    refused("no device 'graphics'", load, saved, device="graphics")
    refused("device must be a name", load, saved, device=0)
    with pytest.raises(FailedPreconditionError, match="'cuda:99' cannot be used here"):
        load(saved, device="cuda:99")
