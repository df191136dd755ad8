"""Loads Hugging Face models from a local directory, as a pipeline of their task.

Offline: nothing is looked up, fetched or reported, whatever the model's files name. Loading runs no code of the model's
unless the option `trust_remote_code` says so. How calls pass is in `_transformers_model`.
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any

from hostd_workers.api import Served, Signature, Tensor
from hostd_workers.loaders._common.opening import existing, import_library, read_model
from hostd_workers.loaders._common.reported import signature
from hostd_workers.loaders._common.torch import checked_device, import_torch
from hostd_workers.wire.errors import FailedPreconditionError, InvalidArgumentError

if TYPE_CHECKING:
    from pathlib import Path

EXTRA = "transformers"
FILE = "config.json"
GENERATES = "text-generation"
EMBEDS = "feature-extraction"
_EXTRAS = dict.fromkeys(("transformers", "torch", "tokenizers", "safetensors", "numpy", "huggingface_hub"), EXTRA)
_OF_TEXTS = (
    GENERATES,
    EMBEDS,
    "fill-mask",
    "summarization",
    "text-classification",
    "text2text-generation",
    "token-classification",
    "translation",
)
"""Tasks that take one or more texts and nothing else that is needed."""
_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
# A base class for everything, which tells nothing of the task unless nothing else does.
_ANY_MODEL = "AutoModel"


def load(
    path: str | None,
    /,
    *,
    task: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
    trust_remote_code: bool = False,
) -> Served:
    """Return the pipeline of the model in the directory `path` (with a `config.json`, as `save_pretrained` writes it).

    `task` is the pipeline's task; None: the first one that the library lists for the architecture in `config.json`.
    `device` is where it runs (`cpu`, `cuda:0`, `mps`); `threads` is the number of threads of one operation on the CPU
    (None: those that the host allots). With `trust_remote_code` the Python files in the directory are executed.

    Served are `predict` (the default) and `describe`, for text generation `generate`, which streams, for feature
    extraction `embed`, and for both `count_tokens`.

    Raises MissingDependencyError without transformers or torch, InvalidArgumentError for damaged files, an unknown task
    and wrong options, FailedPreconditionError if a part of the library's is missing or the device cannot be used,
    NotFoundError if nothing is there.
    """
    found = existing(path, needs=f"a directory with a {FILE}")
    if not (found / FILE).is_file():
        raise InvalidArgumentError(f"there is no {FILE} in {found}; give the directory that save_pretrained wrote")
    if not isinstance(trust_remote_code, bool):
        raise InvalidArgumentError(f"the option trust_remote_code must be true or false, got {trust_remote_code!r}")
    # Not a default: they may have been set for the host otherwise, and the libraries read them once.
    os.environ.update(_OFFLINE)
    torch = import_torch(threads, EXTRA)
    where = checked_device(torch, device)
    transformers = import_library("transformers", EXTRA)
    transformers.utils.logging.disable_progress_bar()
    read = functools.partial(_read, transformers, task, where, trust_remote_code)
    pipeline = read_model(found, read, _EXTRAS)
    # Imported here because they need NumPy, which comes with transformers.
    signatures = _signatures(pipeline.task)
    if pipeline.task == GENERATES:
        generating = import_library("hostd_workers.loaders._models.transformers_text", EXTRA).GeneratingModel
        methods = ("predict", "generate", "count_tokens", "describe")
        return Served(generating(torch, transformers, pipeline), methods, "predict", signatures)
    if pipeline.task == EMBEDS:
        embedding = import_library("hostd_workers.loaders._models.transformers_embedding", EXTRA)
        methods = ("predict", "embed", "count_tokens", "describe")
        model = embedding.EmbeddingModel(torch, pipeline, embedding.pooling_of(found))
        return Served(model, methods, "predict", signatures)
    plain = import_library("hostd_workers.loaders._models.transformers", EXTRA).PipelineModel
    return Served(plain(torch, pipeline), ("predict", "describe"), "predict", signatures)


def _signatures(task: str) -> dict[str, Signature]:
    """Return what the task says of the inputs; most results are lists of maps, which no datatype describes."""
    found = {}
    if task in _OF_TEXTS:
        found["predict"] = signature([Tensor("inputs", "BYTES", (-1,))], passing="array", batch_axis=0)
    if task == GENERATES:
        found["generate"] = signature([Tensor("prompt", "BYTES", ())], [Tensor("text", "BYTES", ())], "array")
    if task == EMBEDS:
        output = Tensor("embeddings", "FP32", (-1, -1))
        found["embed"] = signature([Tensor("texts", "BYTES", (-1,))], [output], "array", 0)
    return found


def _read(transformers: Any, task: str | None, device: Any, trusts: bool, found: Path) -> Any:  # noqa: FBT001 - partial
    registry = import_library("transformers.pipelines", EXTRA).PIPELINE_REGISTRY
    if task is None:
        config = transformers.AutoConfig.from_pretrained(found, trust_remote_code=trusts)
        task = _task_of(config, registry.supported_tasks, found)
    elif task not in {*registry.get_supported_tasks(), *registry.task_aliases}:
        raise InvalidArgumentError(f"there is no task {task!r}; known are {', '.join(registry.get_supported_tasks())}")
    try:
        return transformers.pipeline(task, model=str(found), device=device, trust_remote_code=trusts)
    except ModuleNotFoundError:
        raise
    except ImportError as error:
        # How the library says that an optional part of it (Pillow, sentencepiece, …) is not installed.
        raise FailedPreconditionError(f"{found} needs more than is installed: {str(error).strip()}") from error


def _task_of(config: Any, tasks: dict[str, Any], found: Path) -> str:
    architectures = set(config.architectures or ())
    fitting = [
        (auto.__name__ == _ANY_MODEL, place, task)
        for place, (task, entry) in enumerate(tasks.items())
        for auto in entry["pt"]
        if architectures & _names_of(auto, config)
    ]
    if not fitting:
        raise InvalidArgumentError(
            f"the architectures {sorted(architectures)} in {found / FILE} tell no task; say it with the option task, "
            f"one of {', '.join(tasks)}"
        )
    return min(fitting)[2]


def _names_of(auto: Any, config: Any) -> set[str]:
    classes = auto._model_mapping.get(type(config), ())  # noqa: SLF001 - what its from_pretrained looks the class up in
    return {cls.__name__ for cls in (classes if isinstance(classes, (list, tuple)) else [classes]) if cls is not None}
