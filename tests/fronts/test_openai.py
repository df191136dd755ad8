"""What clients of OpenAI's API get: by the `openai` package, and for what that would not send."""

import json
import textwrap

import openai
import pytest
from front_rig import serving
from helpers import eventually

import hostd
from hostd.fronts.app import app
from hostd.fronts.openai.stopping import Stopping

MODEL = """
    import pathlib
    import numpy as np

    class Model:
        def generate(self, prompt, *, max_new_tokens=3, temperature=1.0, marker=None):
            if not isinstance(prompt, str):
                prompt = " ".join(f"{m['role']}:{m['content']}" for m in prompt)
            if prompt == "bad":
                raise ValueError("no such prompt")
            try:
                yield f"<{prompt}>"
                for number in range(max_new_tokens - 1):
                    if prompt == "breaks" and number == 1:
                        raise ValueError("it breaks")
                    yield f" {number}"
            finally:
                if marker:
                    pathlib.Path(marker).touch()

        def count_tokens(self, prompt):
            return len(prompt.split()) if isinstance(prompt, str) else sum(len(m["content"].split()) for m in prompt)

        def embed(self, texts):
            return np.array([[len(text), 0.5] for text in texts])

    def load(path):
        return Model()
"""
PLAIN = """
    class Model:
        def generate(self, prompt, **options):
            return f"{prompt}!{sorted(options)}"
        def embed(self, texts):
            return "none"
    def load(path):
        return Model()
"""


@pytest.fixture(scope="module")
def front(tmp_path_factory):
    with hostd.Host() as host:
        client = host.client()
        for name, source in (("talker", MODEL), ("plain", PLAIN), ("mute", "def load(path):\n    return len\n")):
            path = tmp_path_factory.mktemp(name)
            (path / "model.py").write_text(textwrap.dedent(source))
            client.load_model(name, path)
        with serving(app(hostd.AsyncClient(host.endpoint))) as served:
            yield served


@pytest.fixture
def ai(front):
    with openai.OpenAI(base_url=f"http://127.0.0.1:{front.port}/v1", api_key="none", max_retries=0) as client:
        yield client


def chat(ai, content="hello", **more):
    return ai.chat.completions.create(model="talker", messages=[{"role": "user", "content": content}], **more)


def test_a_chat_is_answered_with_what_the_model_makes_and_counts(ai):
    answer = chat(ai)
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", "<user:hello> 0 1")
    assert (choice.finish_reason, answer.model, answer.object) == ("stop", "talker", "chat.completion")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (1, 3, 4)
    assert chat(ai, max_completion_tokens=2).choices[0].finish_reason == "length"
    assert chat(ai, max_tokens=2).choices[0].message.content == "<user:hello> 0"


def test_messages_may_come_in_parts(ai):
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert chat(ai, parts).choices[0].message.content.startswith("<user:ab>")


def test_a_chat_is_streamed_as_it_is_made(ai):
    pieces = list(chat(ai, stream=True, stream_options={"include_usage": True}))
    assert [piece.choices[0].delta.content for piece in pieces[:3]] == ["<user:hello>", " 0", " 1"]
    assert (pieces[0].choices[0].delta.role, pieces[3].choices[0].finish_reason) == ("assistant", "stop")
    assert (pieces[4].choices, pieces[4].usage.total_tokens) == ([], 4)
    assert len({piece.id for piece in pieces}) == 1


def test_a_text_goes_on_from_each_prompt(ai):
    answer = ai.completions.create(model="talker", prompt=["a", "b"], max_tokens=1)
    assert [(choice.index, choice.text) for choice in answer.choices] == [(0, "<a>"), (1, "<b>")]
    assert answer.usage.total_tokens == 4
    pieces = [piece.choices[0].text for piece in ai.completions.create(model="talker", prompt="a", stream=True)]
    assert pieces == ["<a>", " 0", " 1", ""]


def test_a_stop_sequence_ends_the_text_and_the_models_stream(ai, tmp_path):
    marker = str(tmp_path / "ended")
    answer = chat(ai, stop=["> 0", "never"], max_tokens=10_000_000, extra_body={"marker": marker})
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("<user:hello", "stop")
    eventually((tmp_path / "ended").exists, "the model's stream is closed")


def test_a_stream_that_is_left_ends_in_the_model(ai, tmp_path):
    marker = str(tmp_path / "ended")
    stream = chat(ai, stream=True, max_tokens=10_000_000, extra_body={"marker": marker})
    next(iter(stream))
    stream.close()
    eventually((tmp_path / "ended").exists, "the model's stream is closed")


def test_a_plain_method_answers_too_and_counts_nothing(ai):
    answer = ai.completions.create(model="plain", prompt="a", temperature=0.5, max_tokens=3)
    assert answer.choices[0].text == "a!['max_new_tokens', 'temperature']"
    assert (answer.usage, answer.choices[0].finish_reason) == (None, "stop")


def test_embeddings_are_a_row_for_each_text(ai, front):
    answer = ai.embeddings.create(model="talker", input=["a", "abc"])
    assert [row.embedding for row in answer.data] == [[1.0, 0.5], [3.0, 0.5]]
    assert answer.usage.prompt_tokens == 2
    assert ai.embeddings.create(model="talker", input="ab", encoding_format="float").data[0].embedding == [2.0, 0.5]
    with pytest.raises(openai.InternalServerError, match=r"must return a row of numbers for each text: .* \(1, n\)"):
        ai.embeddings.create(model="plain", input="a")


def test_models_are_listed_as_openai_does(ai):
    assert [model.id for model in ai.models.list()] == ["mute", "plain", "talker"]
    found = ai.models.retrieve("talker")
    assert (found.object, found.owned_by, found.created > 0) == ("model", "hostd", True)


@pytest.mark.parametrize(
    ("request_", "kind", "words"),
    [
        ({"model": "nix"}, openai.NotFoundError, "Request for unknown model: 'nix'"),
        ({"model": "mute"}, openai.BadRequestError, "'mute' generates no text: it has no method 'generate'"),
        ({"messages": []}, openai.BadRequestError, "messages must be a list"),
        ({"messages": [{"role": "user", "content": 1}]}, openai.BadRequestError, "content of a message is text"),
        ({"max_tokens": 0}, openai.BadRequestError, "max_tokens must be a number from 1 on"),
        ({"stop": [""]}, openai.BadRequestError, "stop must be a text"),
        ({"n": 2}, openai.BadRequestError, "n is not served here, got 2"),
        ({"tools": [{"type": "function"}]}, openai.BadRequestError, "tools is not served here"),
        ({"top_p": 0.5}, openai.BadRequestError, "top_p"),
        ({"stream": "yes"}, openai.BadRequestError, "stream must be true or false"),
    ],
)
def test_what_cannot_be_done_says_why(ai, request_, kind, words):
    asked = {"model": "talker", "messages": [{"role": "user", "content": "x"}], **request_}
    with pytest.raises(kind, match=words) as caught:
        ai.chat.completions.create(**asked)
    assert set(caught.value.body) >= {"message", "type", "code"}


def test_what_the_model_raises_is_told_before_a_stream_and_within(ai):
    with pytest.raises(openai.InternalServerError, match="no such prompt"):
        ai.completions.create(model="talker", prompt="bad")
    with pytest.raises(openai.InternalServerError, match="no such prompt"):
        list(ai.completions.create(model="talker", prompt="bad", stream=True))
    stream = iter(ai.completions.create(model="talker", prompt="breaks", stream=True))
    assert next(stream).choices[0].text == "<breaks>"
    with pytest.raises(openai.APIError, match="it breaks"):
        list(stream)


def test_only_post_asks(front):
    answer = front.ask("GET", "/v1/embeddings")
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    answer = front.ask("POST", "/v1/completions", json.dumps([1]).encode())
    assert (answer.status, answer.value["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize(
    ("stops", "pieces", "passed"),
    [
        ((), ["a", "b"], ["a", "b"]),
        (("x",), ["a", "b"], ["a", "b"]),
        (("ab",), ["a", "c"], ["", "ac"]),
        (("ab",), ["xa", "bc", "d"], ["x", "", ""]),
        (("END", "\n"), ["one E", "ND two"], ["one ", ""]),
        (("END", "\n"), ["a\nEND"], ["a"]),
        (("aab",), ["aa", "ab"], ["", "a"]),
        (("ab",), ["a"], ["", "a"]),
    ],
)
def test_nothing_of_a_stop_sequence_is_passed_on(stops, pieces, passed):
    stopping = Stopping(stops)
    got = [stopping.take(piece) for piece in pieces]
    rest = stopping.rest()
    assert [*got, *([rest] if rest else [])] == passed
