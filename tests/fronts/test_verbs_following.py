"""What is followed over HTTP: events and logs; and what keeps such a connection alive."""

import pytest
from front_rig import verbs_of
from helpers import eventually

import hostd

PRINTS = """
    import sys

    class Model:
        def say(self, text):
            print(text, flush=True)

    def load(path):
        print("hello", flush=True)
        return Model()
"""


@pytest.fixture(scope="module")
def front(shared_host):
    with verbs_of(shared_host) as front:
        yield front


@pytest.fixture
def quick(shared_host):
    """A front that is soon afraid that somebody takes its connections for dead."""
    with verbs_of(shared_host, keepalive_s=0.05) as front:
        yield front


@pytest.fixture(autouse=True)
def _nothing_stays_loaded(front):
    yield
    assert front.ask("POST", "/v1/models/unload").status == 200


def said(front, model_id, text):
    assert front.ask("POST", f"/v1/models/{model_id}/call/say", {"args": [text]}).status == 200


def test_events_come_in_order_with_numbers_and_names(front, model_dir):
    with front.following("GET", "/v1/events") as events:
        assert next(events).comment == "following"
        front.load("m", model_dir())
        seen = []
        while not seen or (seen[-1].name, seen[-1].data["new"]) != ("model", "READY"):
            seen.append(next(events))
    assert [event.number for event in seen] == [str(number) for number in range(1, len(seen) + 1)]
    assert {event.name for event in seen} == {"model", "worker"}
    assert all(event.name == event.data["subject"] and event.data["model_id"] == "m" for event in seen)


def test_events_of_one_model_are_of_that_one(front, model_dir):
    with front.following("GET", "/v1/events?model=b") as events:
        assert next(events).comment == "following"
        front.load("a", model_dir())
        front.load("b", model_dir())
        assert next(events).data["model_id"] == "b"


def test_who_follows_again_is_told_that_the_past_is_not_kept(front):
    with front.following("GET", "/v1/events", headers={"Last-Event-ID": "41"}) as events:
        missed = next(events)
    assert (missed.name, missed.number, missed.data["after"]) == ("missed", "", "41")
    assert "/v1/models" in missed.data["reason"]


def test_a_connection_without_news_gets_comments(quick):
    with quick.following("GET", "/v1/events") as events:
        assert [next(events).comment for _ in range(3)] == ["following", "nothing new", "nothing new"]


def test_a_watch_begins_with_all_models_and_goes_on_with_changes(front, model_dir):
    front.load("early", model_dir())
    with front.following("GET", "/v1/watch") as changes:
        snapshot = next(changes)
        assert (snapshot.name, [model["id"] for model in snapshot.data["models"]]) == ("snapshot", ["early"])
        front.load("m", model_dir())
        seen = [next(changes)]
        while seen[-1].data["models"][0]["state"] != "READY":
            seen.append(next(changes))
        assert {(change.name, change.data["models"][0]["id"]) for change in seen} == {("changed", "m")}
        first = int(snapshot.number) + 1
        assert [int(change.number) for change in seen] == list(range(first, first + len(seen)))
        assert front.ask("POST", "/v1/models/m/unload").status == 200
        while (last := next(changes)).name != "removed":
            pass
    assert last.data["model_id"] == "m"


def test_events_end_with_an_error_when_the_host_does(model_dir):
    with hostd.Host() as host, verbs_of(host) as front:
        with front.following("GET", "/v1/events") as events:
            assert next(events).comment == "following"
            host.stop()
            last = list(events)[-1]
    assert (last.name, last.data["kind"]) == ("error", "UnavailableError")


def test_a_log_is_text_a_line_for_each(front, model_dir):
    front.load("m", model_dir(PRINTS))
    said(front, "m", "größe")

    def lines():
        answer = front.ask("GET", "/v1/models/m/logs")
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        return answer.body.decode().splitlines()

    eventually(lambda: lines()[-2:] == ["hello", "größe"], "both lines are there")
    assert front.ask("GET", "/v1/models/m/logs?tail=1").body.decode() == "größe\n"
    assert front.ask("GET", "/v1/models/m/logs?tail=-1").status == 400


def test_a_log_that_is_followed_goes_on_with_what_is_printed(front, model_dir):
    front.load("followed", model_dir(PRINTS))
    with front.following("GET", "/v1/models/followed/logs?follow=true") as events:
        first = next(events)
        assert (first.name, first.data["is_note"]) == ("note", True)
        assert next(event for event in events if event.name == "line").data["text"] == "hello"
        said(front, "followed", "later")
        later = next(event for event in events if event.name == "line")
    assert (later.data["text"], later.data["time_s"] > 0) == ("later", True)


def test_the_log_of_a_model_that_never_was_has_a_status_of_its_own(front):
    assert front.ask("GET", "/v1/models/nobody/logs").status == 404
    assert front.ask("GET", "/v1/models/nobody/logs?follow=true").status == 404
