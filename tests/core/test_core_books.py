"""Books that are kept beside the registry: by client, of uploads that were ended, of samples."""

from __future__ import annotations

from driver import ALICE, Driver

from hostd.core import events as ev
from hostd.core.bookkeeping.by_client import ByClient
from hostd.core.bookkeeping.recent import Recent
from hostd.core.files.uploading import _ENDS_KEPT


def test_what_is_known_by_client_tells_how_much_it_is() -> None:
    books: ByClient[str] = ByClient()
    books[ev.Caller(ALICE, 1)] = "one"
    books[ev.Caller(ALICE, 2)] = "two"
    assert repr(books) == "<ByClient 2 of 1 clients>"


def test_what_was_set_or_used_last_is_remembered() -> None:
    books: Recent[str, int] = Recent(2)
    books["a"], books["b"], books["a"] = 1, 2, 3
    books["c"] = 4
    assert list(books.items()) == [("a", 3), ("c", 4)]
    assert (books.use("a"), books.use("b")) == (3, None)
    assert books.setdefault("d", 5) == 5
    assert list(books) == ["a", "d"]


def test_uploads_that_were_ended_are_not_remembered_without_end() -> None:
    uploads = Driver().core._deploying.uploads
    for number in range(_ENDS_KEPT + 10):
        uploads.take(ev.FilesId(number), ALICE)
        uploads.wait(ev.FilesId(number))
        uploads.end(ev.FilesId(number), "as a test")
    assert len(uploads._ends) == _ENDS_KEPT
    assert len(uploads) == 0


def test_a_sample_without_a_peak_gets_none_of_another() -> None:
    sample = ev.Memory(1, 100, 60, 70, None)
    assert sample.with_peak_of(ev.Memory(1, 200, 160, 170, 300)) is sample
