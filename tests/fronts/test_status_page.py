"""The status page as a person uses it, in a Chromium, before real hosts: what it shows, and each control to its end."""

import json
import os
import signal
import socket
import textwrap
from pathlib import Path

import pytest

pytest.importorskip("orjson", reason="the extra `http`")

from helpers import eventually, never
from page_rig import DESKTOP, PHONE, Keys, Page, browser
from test_front_process import kill_front

import hostd

NOTHING = "\N{EN DASH}"
TIMES = "\N{MULTIPLICATION SIGN}"

TOKENS = {"read": "read-read-read-read", "call": "call-call-call-call", "admin": "admin-admin-admin-admin"}

MODEL = """
    import time

    class Model:
        def predict(self, x: list):
            '''Return the double of each.'''
            return [2 * value for value in x]

        def say(self, text: str, times: int = 1):
            print(text, flush=True)
            return text * times

        def fail(self, x: int):
            raise ValueError("this <b>input</b> is bad")

        def count(self, n: int):
            for number in range(n):
                yield {"number": number}

        def endless(self):
            while True:
                yield "tick"
                time.sleep(0.05)

    def load(path, **options):
        print("loaded with", options, flush=True)
        return Model()
"""

ARRAYS = """
    class Model:
        def predict(self, pixels):
            return {"type": type(pixels).__name__, "dtype": str(pixels.dtype), "shape": list(pixels.shape), "sum": float(pixels.sum())}

    def load(path):
        return Model()
"""

ARRAYS_SETTINGS = """
    signature:
      predict:
        inputs:
          - {name: pixels, datatype: FP32, shape: [-1, 4]}
        passing: keywords
"""

EVIL = "<img src=x onerror=alert(1)>"


def host_with(tmp_path, **fronts):
    models = tmp_path / "models"
    models.mkdir(exist_ok=True)
    return hostd.Host(
        models={"dir": str(models), "load_on_start": False, "poll_period_s": 0, "write_quiet_period_s": 0},
        fronts={"http": 0, "anonymous": "admin", **fronts},
        workers={"templates": "off"},
    )


def url_of(host):
    return host.client().host_info().fronts["http"]


@pytest.fixture(scope="module")
def chromium():
    with browser() as driver:
        yield driver


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with host_with(tmp_path_factory.mktemp("shared")) as host:
        yield host


@pytest.fixture
def client(shared):
    client = shared.client()
    yield client
    client.unload_all_models(now=True)


@pytest.fixture
def page(chromium, shared, client):
    page = Page(chromium, url_of(shared))
    yield page
    refused = [line for line in page.console() if "Failed to load resource" not in line]
    assert refused == [], "nothing is wrong in the console, and the policy has refused nothing"


@pytest.fixture
def model(client, model_dir):
    path = model_dir(MODEL)
    client.load_model("m", path)
    return path


# What is shown


def test_the_host_its_memory_and_its_models_are_shown(page, client, model_dir, model):
    with pytest.raises(hostd.HostError):
        client.load_model("broken", model_dir("raise ValueError('no weights')"))
    client.retrieve_model("m").predict([1])
    page.open()
    info = client.host_info()
    page.says(info.name, "h1")
    page.says(f"hostd {info.version}", "header")
    for word in ("measured", "reserved", "templates", "free"):
        page.says(word, "header")
    row = page.shows("m", calls="1", errors="0")
    assert "ready" in row["state"]
    assert "MiB" in row["memory"]
    broken = page.shows("broken")
    assert "failed" in broken["state"]
    assert "no weights" in broken["reason"]


def test_labels_are_shown_and_filtered_by(page, client, model_dir):
    for name, labels in (("a", {"team": "red", "stage": "prod"}), ("b", {"team": "blue"}), ("c", None)):
        client.load_model(name, model_dir(MODEL), labels=labels)
    page.open()
    page.until(lambda: {"a", "b", "c"} <= set(page.ids), "all are there")
    page.keys("/")
    page.keys("team=r")
    page.until(lambda: page.ids == ["a"], "the filter leaves one")
    page.open("/#/models/a")
    page.says("team=red", "dl")


def test_models_are_sorted_by_a_column_and_filtered(page, client, model_dir):
    for name in ("a", "b", "c"):
        client.load_model(name, model_dir(MODEL))
    client.retrieve_model("b").predict([1])
    page.open()
    page.until(lambda: {"a", "b", "c"} <= set(page.ids), "all are there")

    def sorted_by():
        heads = page.run("return [...document.querySelectorAll('th[aria-sort]')].map(e => [e.textContent, e.ariaSort])")
        return [f"{name.strip('↑↓')} {way}" for name, way in heads]

    assert sorted_by() == ["Model ascending"]
    page.press("Model")
    assert sorted_by() == ["Model descending"]
    assert [name for name in page.ids if name in "abc"] == ["c", "b", "a"]
    page.until(lambda: page.press("Calls") or sorted_by() == ["Calls descending"], "sorted by calls")
    assert page.ids[0] == "b"
    page.keys("/")
    page.keys("c")
    page.until(lambda: page.ids == ["c"], "the filter leaves one")
    page.says("1 of", ".count")


def test_what_happens_elsewhere_is_shown_at_once_and_figures_follow(page, client, model_dir):
    page.open().says("Models")
    client.load_model("new", model_dir(MODEL))
    page.shows("new", calls="0")
    client.retrieve_model("new").predict([1])
    page.shows("new", calls="1")
    client.unload_model("new")
    page.until(lambda: page.row("new") is None, "it is gone")


def test_markup_in_an_id_is_text(page, client, model_dir):
    client.load_model(EVIL, model_dir(MODEL))
    page.open()
    page.until(lambda: EVIL in page.ids, "it is shown as it is")
    page.one("td.id a", EVIL).click()
    page.says(EVIL, "article h2")
    page.says("double of each", ".call")
    assert page.run("return document.querySelectorAll('img').length") == 0


def test_a_hidden_tab_asks_nothing_and_a_seen_one_goes_on(page, client, model_dir):
    page.open().says("Models")
    asked = "return performance.getEntriesByType('resource').length"
    page.run("""window.isHidden = true;
        Object.defineProperty(document, 'hidden', {get: () => window.isHidden});
        document.dispatchEvent(new Event('visibilitychange'))""")
    before = page.run(asked)
    never(lambda: page.run(asked) - before > 3, "those under way have ended, and none is begun", for_s=3)
    client.load_model("m", model_dir(MODEL))
    assert page.row("m") is None
    page.run("window.isHidden = false; document.dispatchEvent(new Event('visibilitychange'))")
    page.shows("m", calls="0")


# A model


def test_a_model_has_an_address_of_its_own(page, client, model_dir):
    client.load_model("team/größe 1", model_dir(MODEL))
    page.open("/#/models/team%2Fgr%C3%B6%C3%9Fe%201").says("team/größe 1", "article h2")
    for text in ("Settings in force", "cpu_threads", "Processes", "afresh", "What happened", "loading → ready"):
        page.says(text, "article")
    page.says("loaded with {}", ".log")
    page.one("a", "All models").click()
    page.until(lambda: "team/größe 1" in page.ids, "the list is there")
    page.driver.back()
    page.says("team/größe 1", "article h2")


def test_an_address_of_no_model_says_so(page):
    page.open("/#/models/nix").says("There is no model “nix” now")


def test_a_method_is_called_with_what_is_prefilled_and_its_log_is_followed(page, model):
    page.open("/#/models/m").says("double of each", ".call")
    assert json.loads(page.field("Arguments by position").get_attribute("value")) == [[1, 2]]
    page.press("Call")
    page.says("Returned after", ".output")
    page.says("[2, 4]", ".output")
    choose(page, "say")
    page.enter("text", '"größer"')
    page.enter("times", "2")
    page.press("Call")
    page.says("größergrößer", ".output")
    page.says("größer", ".log")


def choose(page, method):
    page.until(
        lambda: page.field("Method").send_keys(method) or page.field("Method").get_attribute("value") == method,
        "chosen",
    )


def test_what_is_no_json_or_of_another_type_is_not_sent(page, client, model):
    page.open("/#/models/m").says("double of each", ".call")
    page.enter("Arguments by position", "[1,")
    page.press("Call")
    page.says("This is not JSON", ".trouble")
    page.enter("Arguments by position", "{}")
    page.press("Call")
    page.says("This must be a list", ".trouble")
    choose(page, "say")
    page.enter("text", "5")
    page.press("Call")
    page.says("text: This must be BYTES", ".trouble")
    assert page.run("return document.activeElement.name") == "text"
    assert client.get_model("m").calls == 0


def test_a_call_that_fails_shows_the_models_traceback(page, model):
    page.open("/#/models/m").says("double of each", ".call")
    choose(page, "fail")
    page.press("Call")
    page.says("ModelError", ".output")
    page.says("ValueError: this <b>input</b> is bad", ".output")
    page.says("raise ValueError", ".output pre")


def test_items_of_a_stream_come_one_by_one_and_it_can_be_stopped(page, client, model):
    page.open("/#/models/m").says("double of each", ".call")
    choose(page, "count")
    page.enter("n", "3")
    page.press("Call")
    page.says("Ended after 3 items", ".output")
    page.says('{\n  "number": 2\n}', ".output pre")
    choose(page, "endless")
    page.press("Call")
    page.says("tick", ".output pre")
    page.press("Stop")
    page.says("Stopped after", ".output")
    eventually(lambda: all(not worker.in_flight for worker in client.get_model("m").workers), "it has ended there, too")


def test_a_declared_array_reaches_the_model_as_one(page, client, model_dir):
    client.load_model("arrays", model_dir(ARRAYS, settings=ARRAYS_SETTINGS))
    page.open("/#/models/arrays").says(f"FP32 [any {TIMES} 4]", ".call")
    page.enter("pixels", "[[1, 2, 3]]")
    page.press("Call")
    page.says(f"pixels: This must be FP32 [any {TIMES} 4]", ".trouble")
    page.enter("pixels", "[[1, 2, 3, 4.5], [0, 0, 0, 1]]")
    page.press("Call")
    page.says('"dtype": "float32"', ".output")
    page.says('"shape": [2, 4]', ".output")
    page.says('"sum": 11.5', ".output")


# Controls


def test_a_model_is_loaded_by_its_path_with_options(page, client, model_dir):
    path = model_dir(MODEL)
    page.open()
    page.press("Load…")
    page.press("Load")
    page.says("The id is missing", "dialog")
    page.enter("Id", "m")
    page.enter("Path", path)
    page.enter("Options", "[1]")
    page.press("Load")
    page.says("must be a map", "dialog")
    page.enter("Options", '{"threads": 2}')
    page.press("What would happen?")
    page.says("It would start", "dialog")
    page.press("Load")
    page.says("m is loaded", "#toasts")
    page.shows("m", calls="0")
    settings = {one["name"]: one["value"] for one in client.explain_model("m")["settings"]}
    assert settings["options.threads"] == 2


def test_a_load_that_fails_says_why_and_keeps_what_was_typed(page, tmp_path):
    page.open()
    page.press("Load…")
    page.enter("Id", "nix")
    page.enter("Path", str(tmp_path / "nix"))
    page.press("Load")
    page.says("there is nothing at", "dialog")
    assert page.field("Id").get_attribute("value") == "nix"


def test_a_model_is_pinned_reloaded_and_unloaded_after_a_question(page, client, model):
    page.open("/#/models/m")
    page.press("Pin")
    page.button("Unpin")
    assert client.get_model("m").pinned
    page.press("Unpin")
    page.button("Pin")
    generation = client.get_model("m").generation
    page.press("Reload…")
    page.says("is lost", "dialog")
    page.press("Cancel")
    assert client.get_model("m").generation == generation
    page.press("Reload…")
    page.press("Reload")
    page.says("m is loaded anew", "#toasts")
    assert client.get_model("m").generation > generation
    page.press("Unload…")
    page.tick("End calls in flight at once")
    page.press("Unload")
    page.says("m is unloaded", "#toasts")
    page.says("There is no model “m” now", "article")
    assert [one.id for one in client.list_models()] == []


def test_what_has_failed_is_loaded_again_where_it_was(page, client, model_dir):
    path = Path(model_dir("raise ValueError('not yet')"))
    with pytest.raises(hostd.HostError):
        client.load_model("m", str(path))
    (path / "model.py").write_text(textwrap.dedent(MODEL))
    page.open("/#/models/m").says("not yet", ".why")
    page.press("Load")
    page.says("m is loaded", "#toasts")
    page.button("Unload…")


def test_a_folder_is_deployed_and_replaced_after_a_question(page, client, tmp_path):
    folder = tmp_path / "fresh"
    (folder / "data").mkdir(parents=True)
    (folder / "model.py").write_text(textwrap.dedent(MODEL))
    (folder / "data" / "weights.bin").write_bytes(b"w" * 100_000)
    page.open()
    page.press("Deploy…")
    page.press("Deploy")
    page.says("No files are chosen", "dialog")
    page.field("Folder").send_keys(str(folder))
    page.says("2 files", "dialog")
    page.says("data/weights.bin", "dialog")
    assert page.field("Id").get_attribute("value") == "fresh"
    page.press("Deploy")
    page.says("fresh is deployed and loaded", "#toasts")
    deployed = Path(client.get_model("fresh").path)
    assert (deployed / "data" / "weights.bin").stat().st_size == 100_000

    (folder / "model.py").write_text(textwrap.dedent(MODEL).replace("2 * value", "3 * value"))
    page.open("/#/models/fresh")
    page.press("Deploy files…")
    page.field("Files").send_keys(str(folder / "model.py"))
    page.press("Deploy")
    page.says("Replace fresh?", "dialog:last-of-type")
    page.press("Replace")
    page.says("fresh is deployed and loaded", "#toasts")
    assert client.retrieve_model("fresh").predict([1]) == [3]
    client.undeploy_model("fresh")


def test_files_that_are_dropped_on_the_page_are_deployed(page, client):
    page.open().says("Models")
    page.run(
        """const transfer = new DataTransfer();
        transfer.items.add(new File([arguments[0]], "model.py"));
        for (const kind of ["dragover", "drop"])
            document.body.dispatchEvent(new DragEvent(kind, {dataTransfer: transfer, bubbles: true, cancelable: true}));""",
        textwrap.dedent(MODEL),
    )
    page.says("1 file", "dialog")
    page.enter("Id", "dropped")
    page.press("Deploy")
    page.says("dropped is deployed and loaded", "#toasts")
    assert client.retrieve_model("dropped").predict([1]) == [2]
    client.undeploy_model("dropped")


def test_a_deploy_that_fails_says_why_in_its_dialog(page):
    page.open().says("Models")
    page.press("Deploy…")
    page.field("Files").send_keys(__file__)
    page.enter("Id", "bad")
    page.press("Deploy")
    page.says("the finder 'default' recognises no model", "dialog")


# Keys


def test_everything_is_reached_by_keys(page, model):
    page.open()
    page.until(lambda: page.ids, "models are there")
    page.keys(Keys.TAB)
    assert page.focused == "Skip to the models"
    page.keys(Keys.ENTER)
    assert page.run("return document.activeElement.id") == "main"
    stops = []
    while page.focused != "m":
        page.keys(Keys.TAB)
        stops.append(page.focused)
        assert len(stops) < 40, stops
        assert page.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid", "the focus is seen"
    assert {"Filter the models", "Load…", "Deploy…", "Model↑"} <= set(stops)
    page.keys(Keys.ENTER)
    page.says("double of each", ".call")
    assert page.focused == "m", "it is in the heading"


def test_a_dialog_keeps_the_focus_and_gives_it_back(page):
    page.open()
    page.run("arguments[0].focus()", page.button("Load…"))
    page.keys(Keys.ENTER)
    page.one("dialog")
    inside = "return document.activeElement === document.body || document.activeElement.closest('dialog') !== null"
    for _ in range(8):
        page.keys(Keys.TAB)
        assert page.run(inside)
    page.keys(Keys.ESCAPE)
    page.has_none("dialog")
    assert page.focused == "Load…"


# Who may


@pytest.fixture
def guarded(tmp_path, chromium):
    """Start hosts with tokens for some roles, and give their page."""
    hosts = []

    def start(anonymous):
        tokens = tmp_path / "tokens"
        tokens.write_text("".join(f"{role} {token}\n" for role, token in TOKENS.items()))
        tokens.chmod(0o600)
        hosts.append(host_with(tmp_path, anonymous=anonymous, tokens=str(tokens)))
        hosts[-1].start()
        return hosts[-1], Page(chromium, url_of(hosts[-1]))

    yield start
    chromium.get("about:blank")
    for host in hosts:
        host.stop()


def test_a_host_that_wants_a_token_is_given_one_for_this_tab(guarded, model_dir):
    host, page = guarded("none")
    host.client().load_model("m", model_dir(MODEL))
    page.open().says("This host asks for a token")
    page.says("see models, figures, events and logs", "main")
    assert "m" not in page.ids
    page.enter("Token", "not-a-token-not-a-token")
    page.press("Use this token")
    page.says("this token is not known", "main")
    page.enter("Token", TOKENS["read"])
    page.press("Use this token")
    page.shows("m", calls="0")
    page.button("Access: read")
    assert page.run("return [localStorage.length, document.cookie]") == [0, ""]
    assert page.run("return sessionStorage.getItem('hostd.token')") == TOKENS["read"]
    page.driver.refresh()
    page.shows("m", calls="0")
    page.press("Access: read")
    page.says("With your token you have the role read", "dialog")
    page.press("Forget the token")
    page.says("This host asks for a token")
    assert page.run("return sessionStorage.length") == 0
    assert "MiB" not in page.text, "nothing is left of what only the token showed"


def test_what_a_role_does_not_allow_is_offered_with_the_reason_and_does_nothing(guarded, model_dir):
    host, page = guarded("read")
    client = host.client()
    client.load_model("m", model_dir(MODEL))
    page.open("/#/models/m").says("double of each", ".call")
    page.says("Your role is read", "article")
    for name, role in (("Call", "call"), ("Unload…", "load"), ("Pin", "load"), ("Deploy files…", "deploy")):
        button = page.button(name)
        assert button.get_attribute("aria-disabled") == "true"
        assert button.get_attribute("title") == f"This needs the role {role}; you have read."
        button.click()
        page.says(f"This needs the role {role}", "#toasts")
    assert page.all("dialog") == []
    assert (client.get_model("m").pinned, client.get_model("m").calls) == (False, 0)
    page.open("/#/models/m", token=TOKENS["call"]).says("double of each", ".call")
    page.until(lambda: page.button("Call").get_attribute("aria-disabled") is None, "it may be called")
    page.press("Call")
    page.says("[2, 4]", ".output")


# The end of a host


def test_a_host_that_is_killed_is_noticed_and_one_that_starts_again_too(tmp_path, chromium, model_dir):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    path = model_dir(MODEL)
    host = host_with(tmp_path, http=port)
    host.start()
    page = Page(chromium, f"http://127.0.0.1:{port}")
    host.client().load_model("m", path)
    page.open().shows("m", calls="0")
    os.kill(host.pid, signal.SIGKILL)
    page.says("The host is not reachable", "#notices")
    page.says("What is shown below was so at", "#notices")
    page.says("Last seen", "footer")
    row = page.row("m")
    assert "was ready" in row["state"]
    assert (row["rate"].strip(), row["flight"], row["idle"]) == (NOTHING, NOTHING, NOTHING)
    assert page.button("Load…").get_attribute("title") == "The host is not reachable."
    page.press("Try now")
    page.says("The host is not reachable", "#notices")
    host.stop()
    with host_with(tmp_path, http=port):
        page.says("The host has started again", "#notices")
        page.until(lambda: page.row("m") is None, "what the other start had is gone")
        assert "not reachable" not in page.text
        page.press("Understood")
        page.has_none(".notice")
        chromium.get("about:blank")


def test_a_front_that_starts_again_is_followed_again(page, shared, client, model):
    page.open("/#/models/m").says("loaded with {}", ".log")
    kill_front(shared)
    client.retrieve_model("m").say("after that")
    page.says("after that", ".log")
    page.has_none(".notice")
    client.pin_model("m")
    page.says("it is not evicted", ".why")


# How it looks


def axe_source():
    """Return axe-core, which is not ours to ship: HOSTD_AXE names its file, or npm has installed it here."""
    places = [os.environ.get("HOSTD_AXE", ""), "node_modules/axe-core/axe.min.js"]
    return next((Path(place).read_text() for place in places if place and Path(place).is_file()), None)


AXE = axe_source()


def violations(page):
    # By the driver, which the page's policy does not bind.
    page.driver.execute_script(AXE)
    found = page.driver.execute_async_script(
        "axe.run().then(arguments[0], e => arguments[0]({violations: [String(e)]}))"
    )
    return [
        f"{one['id']}: {node['html'][:200]}: {node['failureSummary'][:300]}"
        for one in found["violations"]
        for node in one["nodes"]
    ]


LOOKS = [(DESKTOP, False), (DESKTOP, True), (PHONE, False), (PHONE, True)]


@pytest.mark.skipif(AXE is None, reason="no axe-core: npm install axe-core, or HOSTD_AXE=.../axe.min.js")
@pytest.mark.parametrize(("size", "is_dark"), LOOKS, ids=["light", "dark", "phone", "dark phone"])
def test_axe_finds_nothing(page, client, model_dir, model, size, is_dark):
    with pytest.raises(hostd.HostError):
        client.load_model("broken", model_dir("raise ValueError('no weights')"))
    page.open("/", size=size, is_dark=is_dark)
    page.until(lambda: "m" in page.ids, "models are there")
    assert violations(page) == []
    for opens in ("Load…", "Deploy…", "Access: admin"):
        page.press(opens)
        page.one("dialog")
        assert violations(page) == []
        page.keys(Keys.ESCAPE)
    page.open("/#/models/m", size=size, is_dark=is_dark).says("loading → ready")
    page.press("Call")
    page.says("Returned after", ".output")
    assert violations(page) == []
    choose(page, "fail")
    page.press("Call")
    page.says("raise ValueError", ".output pre")
    page.press("Unload…")
    assert violations(page) == []


@pytest.mark.skipif(AXE is None, reason="no axe-core: npm install axe-core, or HOSTD_AXE=.../axe.min.js")
@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing_where_something_is_wrong(guarded, model_dir, is_dark):
    host, page = guarded("none")
    page.open(is_dark=is_dark).says("This host asks for a token")
    assert violations(page) == []
    page.enter("Token", TOKENS["read"])
    page.press("Use this token")
    page.says("No models yet")
    host.client().load_model("m", model_dir(MODEL))
    page.shows("m", calls="0")
    assert violations(page) == []
    host.stop()
    page.says("The host is not reachable", "#notices")
    assert violations(page) == []


@pytest.mark.parametrize("address", ["/", "/#/models/m"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE, (320, 640)], ids=lambda size: str(size[0]))
def test_nothing_is_wider_than_the_screen(page, model, address, size):
    page.open(address, size=size)
    page.until(lambda: "ready" in page.text, "the model is there")
    assert page.run("return document.documentElement.scrollWidth") <= size[0]
