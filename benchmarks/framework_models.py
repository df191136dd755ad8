"""A small model of each framework, and how it is called, for the benchmark of templates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.models import digits_row, write_digits, write_echo

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Case(NamedTuple):
    """A kind of model: what it needs, how it is written and called, and how a plain program loads it.

    `source` defines `load(path)` for the floor; what it imports before is not timed.
    """

    title: str
    needs: tuple[str, ...]
    write: Callable[[Path], Path]
    call: Callable[[Any], Any]
    source: str
    is_promised: bool = False


def _write_onnx(directory: Path) -> Path:
    import numpy as np  # noqa: PLC0415 - only where it is installed, as all below
    from skl2onnx import to_onnx  # noqa: PLC0415
    from sklearn.datasets import load_digits  # noqa: PLC0415
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415

    images, labels = load_digits(return_X_y=True)
    model = LogisticRegression(max_iter=50).fit(images / 16.0, labels)
    path = directory / "digits.onnx"
    path.write_bytes(to_onnx(model, images[:1].astype(np.float32), options={"zipmap": False}).SerializeToString())
    return path


def _call_onnx(model: Any) -> Any:
    import numpy as np  # noqa: PLC0415

    return model(np.zeros((1, 64), np.float32))


def _write_torch(directory: Path) -> Path:
    import torch  # noqa: PLC0415

    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    path = directory / "digits.pt"
    torch.jit.script(layers.eval()).save(str(path))
    return path


def _write_transformers(directory: Path) -> Path:
    from transformers import BertConfig, BertModel, BertTokenizerFast  # noqa: PLC0415

    path, vocabulary = directory / "bert", directory / "vocab.txt"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "first", "answer"]
    vocabulary.write_text("\n".join(words), encoding="utf-8")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(words), **sizes)).eval().save_pretrained(path)
    BertTokenizerFast(str(vocabulary)).save_pretrained(path)
    return path


def _write_xgboost(directory: Path) -> Path:
    import numpy as np  # noqa: PLC0415
    import xgboost  # noqa: PLC0415

    data = np.random.default_rng(0).random((100, 8))
    path = directory / "model.ubj"
    xgboost.train({"max_depth": 3}, xgboost.DMatrix(data, data.sum(axis=1)), 5).save_model(path)
    return path


def _write_lightgbm(directory: Path) -> Path:
    import lightgbm  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415

    data = np.random.default_rng(0).random((200, 8))
    path = directory / "model.txt"
    lightgbm.train({"verbose": -1}, lightgbm.Dataset(data, data.sum(axis=1)), 5).save_model(path)
    return path


def _call_table(model: Any) -> Any:
    import numpy as np  # noqa: PLC0415

    return model(np.full((1, 8), 0.5))


CASES = (
    Case(
        "digits regression (scikit-learn)",
        ("sklearn", "joblib"),
        write_digits,
        lambda model: model(digits_row()),
        "import sklearn.linear_model, joblib\ndef load(path):\n    return joblib.load(path)",
        is_promised=True,
    ),
    Case(
        "python model",
        (),
        write_echo,
        lambda model: model.echo(b"first"),
        "import runpy\ndef load(path):\n    return runpy.run_path(path + '/model.py')['load'](path)",
    ),
    Case(
        "onnx",
        ("onnxruntime", "skl2onnx"),
        _write_onnx,
        _call_onnx,
        "import onnxruntime\ndef load(path):\n    return onnxruntime.InferenceSession(path)",
    ),
    Case(
        "torch (TorchScript, CPU)",
        ("torch",),
        _write_torch,
        lambda model: model(digits_row().astype("float32")),
        "import torch\ndef load(path):\n    return torch.jit.load(path)",
    ),
    Case(
        "transformers (a small BERT)",
        ("transformers", "torch"),
        _write_transformers,
        lambda model: model("a first answer"),
        "from transformers import AutoModel, BertModel\ndef load(path):\n    return AutoModel.from_pretrained(path)",
    ),
    Case(
        "xgboost",
        ("xgboost",),
        _write_xgboost,
        _call_table,
        "import xgboost\ndef load(path):\n    return xgboost.Booster(model_file=path)",
    ),
    Case(
        "lightgbm",
        ("lightgbm",),
        _write_lightgbm,
        _call_table,
        "import lightgbm\ndef load(path):\n    return lightgbm.Booster(model_file=path)",
    ),
)
