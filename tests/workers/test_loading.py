"""One load, where a process of its own would show less; what its errors say is in `e2e/test_failed_loads_explained`."""

from __future__ import annotations

import warnings

from hostd_workers import loading


def test_who_keeps_what_shows_warnings_keeps_no_texts_of_ours(monkeypatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(warnings, "showwarning", lambda message, *_: shown.append(message))
    ours = warnings.showwarning
    with loading._kept_warnings() as texts:
        kept = warnings.showwarning
        kept("during the load", UserWarning, "model.py", 1)
    assert warnings.showwarning is ours
    kept("after it", UserWarning, "model.py", 1)
    assert texts == ["UserWarning: during the load"]
    assert shown == ["during the load", "after it"]


def test_who_replaces_what_shows_warnings_is_not_undone(monkeypatch) -> None:
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    with loading._kept_warnings():
        warnings.showwarning = print
    assert warnings.showwarning is print


def test_a_model_without_a_path_has_no_files_that_could_change() -> None:
    request = {"model_id": "m", "path": None, "loader": f"{__name__}:made", "options": {}}
    assert loading.load(request).warnings == []


def made(path):
    return len
