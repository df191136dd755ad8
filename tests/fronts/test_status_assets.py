"""The files of the status page as they are served: their guards, and that nothing in them needs what these forbid."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("orjson", reason="the extra `http`")

from front_rig import serving

import hostd.fronts.status
from hostd.fronts.status.app import POLICY, status_app

ASSETS = Path(hostd.fronts.status.__file__).with_name("assets")
SCRIPTS = sorted(ASSETS.glob("*.js"))
MOST_LINES = 300


@pytest.fixture(scope="module")
def front():
    with serving(status_app()) as front:
        yield front


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        *(("GET", f"/assets/{path.name}", 200) for path in sorted(ASSETS.iterdir())),
        ("GET", "/", 200),
        ("HEAD", "/", 200),
        ("GET", "/favicon.ico", 200),
        ("GET", "/assets/nothing.js", 404),
        ("GET", "/assets/../app.py", 404),
        ("GET", "/assets/%2e%2e/app.py", 404),
        ("GET", "/assets//etc/passwd", 404),
        ("POST", "/", 405),
    ],
)
def test_every_answer_has_the_guards(front, method, path, status):
    answer = front.ask(method, path)
    assert answer.status == status
    assert answer.headers["content-security-policy"] == POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


def test_the_policy_allows_what_is_the_pages_own_and_nothing_else():
    assert POLICY == (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def test_a_file_that_a_browser_has_is_not_sent_again(front):
    first = front.ask("GET", "/assets/main.js")
    tag = first.headers["etag"]
    assert first.headers["cache-control"] == "no-cache"
    for known in (tag, f'"other", W/{tag}'):
        again = front.ask("GET", "/assets/main.js", headers={"If-None-Match": known})
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
        assert again.headers["content-security-policy"] == POLICY
    assert front.ask("GET", "/assets/main.js", headers={"If-None-Match": '"other"'}).body == first.body


def test_a_head_says_how_long_the_body_would_be_and_has_none(front):
    head, whole = front.ask("HEAD", "/"), front.ask("GET", "/")
    assert (head.body, head.headers["content-length"]) == (b"", str(len(whole.body)))
    assert head.headers["content-type"] == "text/html; charset=utf-8"


class _Markup(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.inside, self.inline = [], None, []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside in ("script", "style") and data.strip():
            self.inline.append(data)


@pytest.fixture(scope="module")
def markup():
    parser = _Markup()
    parser.feed((ASSETS / "index.html").read_text())
    return parser


def test_the_page_has_no_script_or_style_in_line(markup):
    assert markup.inline == []
    assert not [tag for tag, _ in markup.tags if tag in ("style", "iframe", "base", "object", "form")]
    attributes = [name for _, attrs in markup.tags for name in attrs]
    assert not [name for name in attributes if name == "style" or name.startswith("on")]


def test_the_page_refers_to_its_own_files_and_they_are_there(markup):
    files = [attrs[name] for _, attrs in markup.tags for name in ("src", "href") if name in attrs]
    for name in files:
        assert "//" not in name
        if name.startswith("assets/"):
            assert (ASSETS.parent / name).is_file(), name


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_module_puts_no_markup_together_and_imports_what_is_there(script):
    text = script.read_text()
    assert text.startswith("/**")
    assert text.count("\n") < MOST_LINES
    assert not re.findall(
        r"\binnerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|localStorage", text
    )
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg|github\.com/msgpack)", text)
    for name in re.findall(r'from "\./([^"]+)"', text):
        assert (ASSETS / name).is_file(), name
