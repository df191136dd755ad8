"""What a scikit-learn estimator reports of its inputs and outputs.

An estimator knows how many features it was fitted with, often their names, and its classes; not their datatypes: any
numbers are converted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hostd_workers.api import Signature, Tensor
from hostd_workers.loaders._common.reported import columns, is_named, signature
from hostd_workers.wire.signatures import datatype_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_OF_FEATURES = (
    "predict",
    "predict_proba",
    "predict_log_proba",
    "decision_function",
    "score_samples",
    "transform",
    "apply",
)
"""Methods that take the features, and nothing else that is needed."""

NUMBERS = "FP64"


def signatures_of(estimator: Any, methods: Iterable[str], *, takes_texts: bool) -> dict[str, Signature]:
    """Return what is known of the methods that take features; `takes_texts`: its features are texts."""
    names = getattr(estimator, "feature_names_in_", None)
    width = getattr(estimator, "n_features_in_", None)
    passing: str = "array"
    if takes_texts:
        inputs: Sequence[Tensor] = [Tensor("X", "BYTES", (-1,))]
    elif names is not None and is_named(names):
        inputs, passing = columns(list(names)), "map"
    else:
        inputs = [Tensor("X", NUMBERS, (-1, width if isinstance(width, int) else -1))]
    return {name: signature(inputs, [_output(estimator, name)], passing, 0) for name in methods if name in _OF_FEATURES}


def _output(estimator: Any, method: str) -> Tensor:
    classes: Any = getattr(estimator, "classes_", None)
    dtype = getattr(classes, "dtype", None)  # a list of arrays, for several outputs
    if method == "predict":
        if dtype is None:
            return Tensor(method, "", None) if classes is not None else Tensor(method, NUMBERS, None)
        return Tensor(method, datatype_of(dtype.str), (-1,))
    if method in ("predict_proba", "predict_log_proba") and dtype is not None:
        return Tensor(method, NUMBERS, (-1, len(classes)))
    if method == "score_samples":
        return Tensor(method, NUMBERS, (-1,))
    return Tensor(method, "", None)
