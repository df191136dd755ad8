"""The status page in a Chromium that nobody sees, driven as a person would: by names, roles, texts and keys."""

import shutil
from contextlib import contextmanager

import pytest
from helpers import eventually

webdriver = pytest.importorskip("selenium.webdriver", reason="the status page is driven by selenium (extra test)")

from selenium.common.exceptions import JavascriptException, NoSuchElementException, StaleElementReferenceException  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CHROMEDRIVER = shutil.which("chromedriver")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run")
MOMENTARY = (StaleElementReferenceException, NoSuchElementException, JavascriptException, IndexError, ValueError)

SEEN = """
const [css, text] = arguments;
const isSeen = (one) => one.checkVisibility({opacityProperty: true, visibilityProperty: true});
const found = [...document.querySelectorAll(css)].filter(isSeen);
return text === null ? found : found.filter((one) => one.innerText.includes(text));
"""
"""One look, in the page: it draws elements anew meanwhile, and half of a look would be of those that are gone."""

DESKTOP = (1280, 900)
PHONE = (375, 800)


@contextmanager
def browser():
    """Run a Chromium, or skip where there is none."""
    if CHROMIUM is None or CHROMEDRIVER is None:
        missing = "chromium" if CHROMIUM is None else "chromedriver"
        pytest.skip(f"there is no {missing}: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in FLAGS:
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))
    try:
        driver.set_script_timeout(60)
        yield driver
    finally:
        driver.quit()


class Page:
    """A page of a host, at `url`."""

    def __init__(self, driver, url):
        self.driver = driver
        self.url = url.rstrip("/")

    def open(self, address="/", *, size=DESKTOP, is_dark=False, token=None):
        """Open an address of the page afresh; `token` is kept as the page would."""
        self.look(size, is_dark=is_dark)
        self.driver.get(f"{self.url}/assets/icon.svg")  # of the same origin, and without a script
        self.run("sessionStorage.clear()")
        if token:
            self.run("sessionStorage.setItem('hostd.token', arguments[0])", token)
        self.driver.get("about:blank")
        self.driver.get(self.url + address)
        return self

    def look(self, size=DESKTOP, *, is_dark=False):
        """Have a window of a size, in the light or in the dark."""
        screen = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        still = {"name": "prefers-reduced-motion", "value": "reduce"}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme, still]})

    def run(self, script, *arguments):
        """Return what a script returns."""
        return self.driver.execute_script(script, *arguments)

    def until(self, check, what, **more):
        """Wait for a check, which may find elements that are drawn anew meanwhile."""

        def tolerant():
            try:
                return check()
            except MOMENTARY:
                return None

        try:
            return eventually(tolerant, what, **more)
        except AssertionError as error:
            raise AssertionError(f"{error}\n\nThe page: {self.text}\n\nIts console: {self.console()}") from None

    def all(self, css, text=None):
        """Return the elements that are seen, those with a text."""
        return self.run(SEEN, css, text)

    def has_none(self, css):
        """Wait until no such element is seen."""
        return self.until(lambda: self.all(css) == [], f"no {css} is seen")

    def one(self, css, text=None):
        """Wait for an element that is seen."""
        return self.until(lambda: self.all(css, text)[0], f"{css} with {text!r} is seen")

    def button(self, text):
        """Wait for the button of the topmost dialog, or of the page, whose text begins so."""
        scope = "dialog:last-of-type button" if self.all("dialog") else "button"
        return self.until(
            lambda: next((one for one in self.all(scope) if one.text.startswith(text)), None), f"there is {text!r}"
        )

    def press(self, text):
        """Press a button."""
        self.until(lambda: self.button(text).click() or True, f"{text!r} can be pressed")

    def field(self, label):
        """Return the field with a label, in the topmost dialog if there is one."""

        def found():
            labels = self.all("dialog:last-of-type label" if self.all("dialog") else "label")
            (one,) = [one for one in labels if one.text == label]
            return self.driver.find_element(By.ID, one.get_attribute("for"))

        return self.until(found, f"there is a field {label!r}")

    def enter(self, label, text):
        """Have a text in a field."""
        field = self.field(label)
        field.clear()
        field.send_keys(text)

    def tick(self, text):
        """Tick the box beside a text."""
        self.one("label.tick", text).find_element(By.CSS_SELECTOR, "input").click()

    def keys(self, *keys):
        """Press keys, wherever the focus is."""
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    def says(self, text, css="body"):
        """Wait for a text."""
        return self.until(lambda: text in self.driver.find_element(By.CSS_SELECTOR, css).text, f"{css} says {text!r}")

    def row(self, model_id):
        """Return the cells of a model that are seen, by their column."""
        for row in self.driver.find_elements(By.CSS_SELECTOR, ".list tbody tr"):
            cells = row.find_elements(By.CSS_SELECTOR, "td")
            if cells[0].text.split("\n")[0] == model_id:
                return {cell.get_attribute("class").split()[0]: cell.text for cell in cells if cell.is_displayed()}
        return None

    def shows(self, model_id, **cells):
        """Wait until the row of a model has cells with these texts."""
        return self.until(
            lambda: (
                all((self.row(model_id) or {}).get(name) == text for name, text in cells.items()) and self.row(model_id)
            ),
            f"{model_id} shows {cells}",
        )

    @property
    def ids(self):
        """The models in their order."""
        return [one.text for one in self.all(".list tbody td.id a")]

    @property
    def focused(self):
        """What has the focus, as its text or label."""
        return self.run("const e = document.activeElement; return e.getAttribute('aria-label') || e.textContent")

    @property
    def text(self):
        return self.driver.find_element(By.TAG_NAME, "body").text

    def console(self):
        """Return what the browser's console has got since the last time."""
        return [entry["message"] for entry in self.driver.get_log("browser")]


__all__ = ["CHROMIUM", "DESKTOP", "PHONE", "Keys", "Page", "browser"]
