"""Who is let in by a front: tokens and roles, hosts and origins, and the file of tokens."""

import asyncio
import hashlib
import os

import pytest

from hostd.fronts.access import Access, Role, caller_of, guarded, local_hosts, read_tokens, require
from hostd.fronts.errors import UnauthenticatedError
from hostd_workers.wire.errors import FailedPreconditionError, InvalidArgumentError, PermissionDeniedError

SECRET = "s3cret-s3cret-s3cret"
OTHER = "another-another-another"
LOCAL = Access(Role.CALL, {hashlib.sha256(SECRET.encode()).digest(): Role.ADMIN}, local_hosts("127.0.0.1"))


def asked(access, needs=Role.CALL, method="POST", **headers):
    """Return status and headers of the answer to a request that needs a role; 200 if it is let in."""
    sent = []

    async def send(message):
        sent.append(message)

    async def app(scope, receive, send):
        try:
            require(scope, needs)
            status = 200
        except UnauthenticatedError:
            status = 401
        except PermissionDeniedError:
            status = 403
        await send({"type": "http.response.start", "status": status, "headers": []})

    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": "/", "headers": named}
    asyncio.run(guarded(app, access)(scope, None, send))
    return sent[0]["status"], dict(sent[0]["headers"])


def status(*args, host="127.0.0.1:8000", **headers):
    return asked(*args, host=host, **headers)[0]


def test_a_token_is_one_caller_however_it_is_written_and_others_are_their_addresses():
    written = (b"Bearer abc", b"bearer  abc", b"BEARER abc ")
    assert len({caller_of(authorization, "1.2.3.4") for authorization in written}) == 1
    assert caller_of(b"Bearer abd", "1.2.3.4") != caller_of(b"Bearer abc", "1.2.3.4")
    assert caller_of(None, "1.2.3.4") == "1.2.3.4"


def test_each_role_allows_all_that_those_before_it_allow():
    for has in Role:
        for needs in Role:
            assert status(Access(has), needs) == (200 if has >= needs else 401)


def test_without_a_token_somebody_has_the_anonymous_role_and_with_one_that_of_the_token():
    assert status(LOCAL, Role.CALL) == 200
    assert status(LOCAL, Role.LOAD) == 401
    assert status(LOCAL, Role.ADMIN, authorization=f"Bearer {SECRET}") == 200
    assert status(LOCAL, Role.ADMIN, authorization=f"bearer  {SECRET} ") == 200
    weak = Access(Role.NONE, {hashlib.sha256(SECRET.encode()).digest(): Role.READ})
    assert status(weak, Role.CALL, authorization=f"Bearer {SECRET}") == 403


@pytest.mark.parametrize("given", [f"Bearer {SECRET}x", "Bearer", "Bearer ", f"Basic {SECRET}", SECRET, ""])
def test_a_token_that_is_not_known_is_never_taken_for_none(given):
    code, headers = asked(LOCAL, Role.NONE, host="localhost", authorization=given)
    assert code == 401
    assert headers[b"www-authenticate"] == b'Bearer realm="hostd"'


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "LOCALHOST:1", "127.0.0.1:8000", "[::1]:8000"])
def test_a_local_front_is_asked_for_by_its_names(host):
    assert status(LOCAL, host=host) == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example:8000", "127.0.0.2", "", "[::2]", "[", "a@localhost"]
)
def test_a_name_that_was_made_to_point_here_is_refused(host):
    expected = 200 if host == "a@localhost" else 403  # no browser sends a user name, and the name is a local one
    assert status(LOCAL, host=host) == expected
    assert status(Access(Role.CALL), host=host) == 200, "elsewhere a front has names that it does not know"


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "http://localhost:9000"},
        {"origin": "null"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
    ],
)
def test_a_page_of_another_origin_may_not_ask(headers):
    assert status(LOCAL, Role.NONE, host="localhost:8000", **headers) == 403


def test_a_link_may_lead_here_and_a_form_may_not():
    link = {"host": "localhost", "sec_fetch_site": "cross-site", "sec_fetch_dest": "document"}
    assert status(LOCAL, method="GET", **link) == 200
    assert status(LOCAL, method="POST", **link) == 403
    assert status(LOCAL, method="GET", **{**link, "sec_fetch_dest": "iframe"}) == 403


def test_the_fronts_own_page_may_ask():
    own = {"origin": "http://localhost:8000", "sec_fetch_site": "same-origin"}
    assert status(LOCAL, host="localhost:8000", **own) == 200


@pytest.mark.parametrize("origin", ["http://[", "http://", "x", ""])
def test_an_origin_that_is_none_is_another(origin):
    assert status(LOCAL, host="localhost:8000", origin=origin) == 403
    assert status(LOCAL, host="localhost:8000", sec_fetch_site="Cross-Site") == 403


def test_a_defect_is_told_as_an_error_if_nothing_was_sent(caplog):
    sent = []

    async def app(scope, receive, send):
        raise ZeroDivisionError

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    asyncio.run(guarded(app, Access())(scope, None, send))
    assert sent[0]["status"] == 500
    assert b'"status":"INTERNAL"' in sent[1]["body"]
    assert "ZeroDivisionError" in caplog.text


def test_an_application_that_nobody_guards_lets_everybody_do_everything():
    require({"headers": []}, Role.ADMIN)


# The file


def written(tmp_path, text, mode=0o600):
    file = tmp_path / "tokens"
    file.write_text(text)
    file.chmod(mode)
    return file


def test_a_file_of_tokens_has_a_role_and_a_token_a_line(tmp_path):
    file = written(tmp_path, f"# ours\n\ncall {SECRET}  # of the web server\nadmin\t{OTHER}\n")
    access = Access(Role.NONE, read_tokens(file))
    assert access.role_of(f"Bearer {SECRET}".encode()) is Role.CALL
    assert access.role_of(f"Bearer {OTHER}".encode()) is Role.ADMIN


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("call", "line 1 must be a role and a token"),
        (f"\nuse {SECRET}", "line 2 must be a role and a token"),
        (f"call {SECRET} web", "line 1 must be"),
        ("call short", "line 1: a token has at least 16 characters"),
    ],
)
def test_a_line_that_is_wrong_is_named(tmp_path, text, words):
    with pytest.raises(InvalidArgumentError, match=words):
        read_tokens(written(tmp_path, text))


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_tokens_that_others_can_read_are_refused(tmp_path, mode):
    with pytest.raises(FailedPreconditionError, match=r"others can read the tokens in .*: chmod 600 "):
        read_tokens(written(tmp_path, f"call {SECRET}", mode))


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(InvalidArgumentError, match=r"must be in a file, and .*fifo is none"):
        read_tokens(tmp_path / "fifo")


def test_a_file_that_is_not_there_says_so(tmp_path):
    with pytest.raises(FailedPreconditionError, match="cannot be read: No such file"):
        read_tokens(tmp_path / "nix")
