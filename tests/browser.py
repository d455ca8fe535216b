"""A real Chromium without a screen, for tests of pages; it is never given a network.

Example: ``page = browser.open(file)``, then ``page.texts("h2")`` and ``page.faults()``.
"""

import base64
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


CHROMIUM, DRIVER = (next(filter(None, map(shutil.which, names)), None) for names in (("chromium",), ("chromedriver",)))

#: Why no page can be tested here; None where it can.
MISSING = None if CHROMIUM and DRIVER else "needs chromium and chromedriver (Debian: chromium and chromium-driver)"

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)


@contextmanager
def open_browser():
    """Give a `Browser` and end it; it has a profile of its own."""
    from selenium import webdriver

    with TemporaryDirectory(prefix="chromium-") as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for flag in (*_FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
        try:
            yield Browser(driver)
        finally:
            driver.quit()


class Browser:
    """A browser with one page at a time.

    Attributes:
        driver: Selenium's, for what the methods lack.
    """

    def __init__(self, driver):
        self.driver = driver

    def open(self, file: Path, width: int = 1280, height: int = 900, dark: bool = False) -> "Browser":
        """Open a file of the disk, and forget what other pages have said."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.resize(width, height)
        for kind in ("browser", "performance"):
            self.driver.get_log(kind)
        self.driver.get(file.resolve().as_uri())
        return self

    def resize(self, width: int, height: int) -> None:
        """Give the page a width and a height in CSS pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def run(self, script: str, *arguments):
        """Run JavaScript and return what it returns."""
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str):
        """Return the first element of a CSS selector."""
        return self.driver.find_element("css selector", selector)

    def texts(self, selector: str) -> list[str]:
        """Return what the elements of a CSS selector show."""
        return self.run("return [...document.querySelectorAll(arguments[0])].map((e) => e.innerText)", selector)

    def press(self, *keys: str) -> None:
        """Press keys where the focus is; names of special ones are those of Selenium's `Keys`."""
        from selenium.webdriver import ActionChains, Keys

        ActionChains(self.driver).send_keys(*(getattr(Keys, key, key) for key in keys)).perform()

    def focused(self, attribute: str) -> str | None:
        """Return an attribute of the element that has the focus."""
        return self.driver.switch_to.active_element.get_attribute(attribute)

    def screenshot(self, file: Path) -> None:
        """Write what is seen as a PNG, from the top of the page to its end."""
        size = self.driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 12000), "scale": 1}
        shot = self.driver.execute_cdp_cmd(
            "Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True, "clip": clip}
        )
        file.write_bytes(base64.b64decode(shot["data"]))

    def overflow(self) -> int:
        """Return by how many pixels the page is wider than its window."""
        return self.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth")

    def milliseconds(self) -> float:
        """Return how long it took from asking for the page until it was loaded and its scripts had run."""
        return self.run("const [entry] = performance.getEntriesByType('navigation'); return entry.loadEventEnd")

    def faults(self) -> list[str]:
        """Return what is wrong since the page was opened: errors on its console, and requests for anything else."""
        said = [entry["message"] for entry in self.driver.get_log("browser")]
        own = self.driver.current_url.partition("#")[0]
        asked = [address for address in self._requests() if address != own and not address.startswith(_OWN)]
        return said + [f"requested {address}" for address in asked]

    def _requests(self) -> Iterator[str]:
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                yield message["params"]["request"]["url"]


#: Addresses within the page, and of the browser's own first window.
_OWN = ("data:", "chrome:", "chrome-untrusted:")
