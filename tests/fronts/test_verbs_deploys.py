"""Deploys over HTTP: forms and archives, what is refused before the host sees it, and that nothing stays."""

import io
import json
import os
import stat
import tarfile

import pytest
from front_rig import archive, form, verbs_of
from helpers import eventually

import hostd

CODE = b"""
from pathlib import Path

class Model:
    def __init__(self, path):
        self.path = Path(path)

    def predict(self):
        return (self.path / "sub" / "text").read_text()

    def modes(self):
        return {str(f.relative_to(self.path)): f.stat().st_mode & 0o100 for f in self.path.rglob("*") if f.is_file()}

    def folders(self):
        return sorted(str(f.relative_to(self.path)) for f in self.path.rglob("*") if f.is_dir())

def load(path):
    return Model(path)
"""
FILES = {"model.py": CODE, "sub/text": b"one"}
TAR = {"Content-Type": "application/x-tar"}
FORM = {"Content-Type": "multipart/form-data; boundary=bound"}
MOST_BYTES = 2**20


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    base = tmp_path_factory.mktemp("places")
    (base / "models").mkdir()
    (base / "waiting").mkdir()
    return base


@pytest.fixture(scope="module")
def front(places):
    models = {"dir": places / "models", "write_quiet_period_s": 0, "poll_period_s": 0}
    with hostd.Host(models=models) as host:
        with verbs_of(host, max_deploy_bytes=MOST_BYTES, files_dir=places / "waiting") as front:
            yield front


@pytest.fixture(autouse=True)
def _nothing_stays(front, places):
    yield
    eventually(lambda: not os.listdir(places / "waiting"), "the files of the request are gone")
    if (places / "models" / "m").exists():
        # Not while a deploy that nobody waits for any more is made to last.
        eventually(lambda: front.ask("DELETE", "/v1/models/m/files").status == 200, "it is undeployed")
    assert [name for name in os.listdir(places / "models") if not name.startswith(".")] == []


def put(front, body, headers, query=""):
    return front.ask("PUT", f"/v1/models/m/files{query}", body, headers)


def result(front, method="predict"):
    return front.ask("POST", f"/v1/models/m/call/{method}").value["result"]


@pytest.mark.parametrize(("body", "headers"), [(form(FILES), FORM), (archive(FILES), TAR)], ids=["form", "archive"])
def test_files_are_deployed_and_undeployed(front, places, body, headers):
    answer = put(front, body, headers)
    assert answer.status == 200, answer
    assert (answer.value["state"], answer.value["path"]) == ("READY", str(places / "models" / "m"))
    assert result(front) == "one"
    assert (places / "models" / "m" / "model.py").read_bytes() == CODE
    report = front.ask("DELETE", "/v1/models/m/files").value
    assert (report["model_id"], report["processes"]) == ("m", 1)
    assert front.ask("DELETE", "/v1/models/m/files").status == 404


def test_a_deploy_over_another_must_be_asked_for(front):
    assert put(front, form(FILES), FORM).status == 200
    other = form({**FILES, "sub/text": b"two"})
    assert (put(front, other, FORM).status, result(front)) == (409, "one")
    assert (put(front, other, FORM, "?replace=true").status, result(front)) == (200, "two")


def test_options_of_the_load_are_parameters_of_the_query(front):
    code = b"def load(path, **options):\n    return lambda: options\n"
    answer = put(front, form({"model.py": code}), FORM, "?options=%7B%22n%22%3A%202%7D&retries=0&timeout_s=60")
    assert answer.status == 200, answer
    assert front.ask("POST", "/v1/models/m/call").value["result"] == {"n": 2}
    wrong = put(front, form(FILES), FORM, "?options=n%3D2")
    assert (wrong.status, wrong.value["details"]["parameter"]) == (400, "options")


@pytest.mark.parametrize(
    "kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["ustar", "gnu", "pax"]
)
def test_an_archive_has_long_names_modes_folders_and_a_dot_before_all(front, kind):
    long = "/".join(["l" * 60] * 2) + "/größe" if kind != tarfile.USTAR_FORMAT else "/".join(["l" * 90] * 2)
    files = {
        "./": b"",
        "./model.py": CODE,
        "./sub/": b"",
        "./sub/text": b"one",
        "./empty/": b"",
        f"./{long}": b"x" * 1025,
    }
    attributes = {name: {"type": tarfile.DIRTYPE} for name in files if name.endswith("/")}
    attributes["./sub/text"] = {"mode": 0o755}
    answer = put(front, archive(files, kind=kind, **attributes), TAR)
    assert answer.status == 200, answer
    modes = result(front, "modes")
    assert {name: bool(mode) for name, mode in modes.items() if not name.startswith((".", "__"))} == {
        "model.py": False,
        "sub/text": True,
        long: False,
    }
    assert "empty" in result(front, "folders")


def test_what_git_and_newer_tars_say_of_members_changes_nothing_else(front):
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", pax_headers={"comment": "of all"}) as tar:
        for name, data in FILES.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.pax_headers = len(data), 1.5, {"SCHILY.xattr.user.a": "b"}
            tar.addfile(member, io.BytesIO(data))
    assert put(front, written.getvalue(), TAR).status == 200
    assert result(front) == "one"


BAD_NAMES = ["/etc/x", "../x", "a/../../x", "a//b", "a/./b", "..", "x" * 256, "a/" * 600 + "b"]


@pytest.mark.parametrize("name", BAD_NAMES, ids=lambda name: name[:12])
@pytest.mark.parametrize("headers", [FORM, TAR], ids=["form", "archive"])
def test_a_name_that_leads_elsewhere_is_refused(front, places, name, headers):
    files = {"model.py": CODE, name: b"x"}
    answer = put(front, form(files) if headers is FORM else archive(files), headers)
    assert (answer.status, answer.kind) == (400, "InvalidArgumentError"), answer
    assert answer.value["details"]["parameter"] == "files"
    assert ("it must be relative" in answer.value["error"]) == name.startswith("/")
    assert sorted(os.listdir(places)) == ["models", "waiting"]


KINDS = {
    "a symbolic link": {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
    "a hard link": {"type": tarfile.LNKTYPE, "linkname": "model.py"},
    "a device": {"type": tarfile.CHRTYPE},
    "a pipe": {"type": tarfile.FIFOTYPE},
    "a member of the type b'Z'": {"type": b"Z"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_neither_file_nor_directory_is_refused(front, kind):
    answer = put(front, archive({"model.py": CODE, "bad": b""}, bad=KINDS[kind]), TAR)
    assert answer.status == 400
    assert answer.value["error"].startswith(f"'bad' is {kind}")


def test_a_sparse_file_is_refused(front):
    headers = {"pax_headers": {"GNU.sparse.major": "1", "GNU.sparse.realsize": str(2**40)}}
    answer = put(front, archive({"model.py": CODE, "big": b"x"}, big=headers), TAR)
    assert (answer.status, "a sparse file" in answer.value["error"]) == (400, True)


@pytest.mark.parametrize("first", ["a", "a/b"])
def test_a_name_twice_and_a_file_as_a_folder_are_refused(front, first):
    second = "a/b" if first == "a" else "a"
    assert put(front, form({"model.py": CODE, first: b"", second: b""}), FORM).status == 400
    twice = form({"model.py": CODE}).removesuffix(b"--bound--\r\n") + form({"model.py": CODE})
    assert put(front, twice, FORM).status == 400


def test_there_are_no_more_files_than_a_deploy_may_have(front):
    part = b'--bound\r\nContent-Disposition: form-data; filename="%d"\r\n\r\n\r\n'
    answer = put(front, b"".join(part % number for number in range(10_001)) + b"--bound--\r\n", FORM)
    assert (answer.status, answer.kind) == (400, "InvalidArgumentError")
    assert "there are more than 10000 files" in answer.value["error"]


def test_where_files_cannot_be_kept_that_is_said(front, places):
    (places / "waiting").rename(places / "elsewhere")
    try:
        answer = put(front, form(FILES), FORM)
    finally:
        (places / "elsewhere").rename(places / "waiting")
    assert (answer.status, answer.kind) == (429, "ResourceExhaustedError")
    assert "No such file" in answer.value["error"]


def pax_of(size):
    member = tarfile.TarInfo("h")
    member.type, member.size = tarfile.XHDTYPE, size
    return member.tobuf(tarfile.GNU_FORMAT)


WHOLE = archive(FILES)
UNREADABLE = {
    "nothing": (b"", TAR),
    "no archive": (b"x" * 1024, TAR),
    "cut off in a file": (WHOLE[:700], TAR),
    "cut off between files": (WHOLE[: 512 + 1024], TAR),
    "compressed": (b"\x1f\x8b" + bytes(1022), TAR),
    "a header without end": (pax_of(2**33), TAR),
    "a header without sense": (pax_of(5) + b"9 x=y".ljust(512, b"\0"), TAR),
    "a size that is none": (archive({"a": b""}, a={"pax_headers": {"size": "-1"}}), TAR),
    "no form": (b"x" * 100, FORM),
    "a form that is cut off": (form(FILES)[:-20], FORM),
    "a form without files": (b"--bound--\r\n", FORM),
    "a part without a filename": (form(FILES).replace(b'; filename="model.py"', b""), FORM),
    "a name with a zero byte": (form(FILES).replace(b'"sub/text"', b'"a\0b"'), FORM),
    "a name that is not UTF-8": (form(FILES).replace(b'"sub/text"', b'"\xff"'), FORM),
    "no boundary": (form(FILES), {"Content-Type": "multipart/form-data"}),
    "a boundary that is too long": (form(FILES), {"Content-Type": f"multipart/form-data; boundary={'b' * 300}"}),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_a_body_that_cannot_be_read_is_refused(front, what):
    answer = put(front, *UNREADABLE[what])
    assert (answer.status, answer.kind) == (400, "InvalidArgumentError"), answer


def test_a_header_that_says_to_be_long_is_refused_before_it_has_come(front):
    answer = put(front, *UNREADABLE["a header without end"])
    assert f"a header of {2**33} bytes" in answer.value["error"]


@pytest.mark.parametrize("kind", ["application/json", "application/gzip", ""])
def test_files_in_another_form_are_refused(front, kind):
    answer = put(front, WHOLE, {"Content-Type": kind})
    assert (answer.status, answer.value["details"]["got"]) == (415, kind)


def test_a_body_that_says_that_it_is_too_long_is_refused_before_it_is_sent(front):
    with front.begun("PUT", "/v1/models/m/files", None, {**TAR, "Content-Length": str(MOST_BYTES + 1)}) as connection:
        answer = connection.getresponse()
        assert (answer.status, json.load(answer)["kind"]) == (413, "MessageTooLargeError")


def test_a_body_that_turns_out_too_long_is_refused(front):
    pieces = iter([archive({"model.py": CODE, "big": bytes(MOST_BYTES)})])
    answer = put(front, pieces, TAR)
    assert (answer.status, answer.kind) == (413, "MessageTooLargeError")


def test_a_client_that_goes_away_while_it_sends_leaves_nothing(front, places):
    waiting = places / "waiting"
    head = {**TAR, "Content-Length": str(len(WHOLE) + 2**19)}
    with front.begun("PUT", "/v1/models/m/files", None, head) as connection:
        connection.send(archive({"model.py": CODE, "big": bytes(2**19)})[: 2**18 + 4096])
        (name,) = eventually(lambda: os.listdir(waiting), "the directory is made")
        assert stat.S_IMODE((waiting / name).stat().st_mode) == 0o700
        eventually((waiting / name / "model.py").exists, "what has come is written")
    # The fixture waits until it is gone.


def test_a_client_that_goes_away_while_the_model_loads_leaves_that_to_the_host(front, places, tmp_path):
    began, gate = tmp_path / "began", tmp_path / "gate"
    code = f"""
import os, time
def load(path):
    open({str(began)!r}, "w").close()
    while not os.path.exists({str(gate)!r}):
        time.sleep(0.002)
    return len
"""
    with front.begun("PUT", "/v1/models/m/files", form({"model.py": code.encode()}), FORM):
        eventually(began.exists, "it loads")
        assert os.listdir(places / "waiting")
    eventually(lambda: not os.listdir(places / "waiting"), "the files of the request are gone")
    gate.touch()
    eventually(lambda: front.ask("GET", "/v1/models/m").value["state"] == "READY", "the deploy has gone on")


def test_a_sync_says_what_it_did(front, places):
    (places / "models" / "m").mkdir()
    (places / "models" / "m" / "model.py").write_bytes(CODE)
    assert front.ask("POST", "/v1/models/sync", {"wait": True, "timeout_s": 60}).value["loaded"] == ["m"]
    assert front.ask("GET", "/v1/models/m").value["state"] == "READY"
