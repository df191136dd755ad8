"""Syncs that wait for loads which earlier ones have begun, and which end meanwhile: each is told once."""

from __future__ import annotations

from hostd_workers.wire.errors import ModelError


def test_a_load_that_a_sync_joined_and_that_ended_while_the_directory_was_read_is_told_once(host):
    host.sync(wait=False)
    host.scanned(found=("a",))
    caller = host.sync()
    host.up()
    host.exited()
    host.gone()
    host.scanned(found=("a",))
    host.not_found(ModelError("no finder knows this"))
    report = host.answer(caller)
    assert (report.loaded, report.failed) == ((), {"a": "no finder knows this"})


def test_what_was_written_when_a_sync_joined_its_load_and_is_loaded_anew_is_told_once(host):
    host.sync(wait=False)
    host.scanned(found=("a",))
    caller = host.sync()
    host.delayed()
    host.not_found(ModelError("no finder knows this"))
    host.scanned(found=("a",))
    host.up()
    report = host.answer(caller)
    assert (report.loaded, report.writing, report.failed) == (("a",), (), {})
