"""What the tests of the page share: a service in a thread, scripted chains, a person at a browser."""

from __future__ import annotations

import os
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

from gream.decoding.recommender import Recommender
from gream.decoding.torch_backend import TorchBackend
from gream.language.prompting import Prompter
from gream.serving import app as serve

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
QUIET = ("gpu", "quic", "background-networking", "component-update", "sync", "dev-shm-usage")
EVIL = "<b>Ink</b><script>document.title = 'broken'</script> & \"more\""  # title of item-5
PATIENCE = 20  # seconds; nothing takes that long, but a machine may be busy


@dataclass
class Writer(TorchBackend):
    """Searches with the model and writes chains from a script."""

    search: TorchBackend
    prompter: Prompter
    go_on: threading.Event = field(default_factory=threading.Event)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.search, name)

    device = property(lambda self: self.search.device)

    def start(self, prompts: list[list[int]], *, keep_states: bool = False) -> Any:
        return self.search.start(prompts, keep_states=keep_states)

    def complete(self, prompts, *, seeds, stop, watch=None, **_):
        texts = [[self._script(number) + [stop] for number in range(len(of_user))] for of_user in seeds]
        early, late = self._parts(texts, before=True), self._parts(texts, before=False)
        for parts in (early, late):
            for row, number, tokens in parts:
                for token in tokens if watch else ():
                    watch(row, number, [token])
            while parts is early and not self.go_on.wait(0.01):
                for row, number, _tokens in parts:
                    watch(row, number, [])  # the service ends a call that nobody waits for here
        return texts

    def _parts(self, texts, before: bool):
        pause = len(self.prompter.encode(self._steps(0)[0]))
        cut = slice(None, pause) if before else slice(pause, None)
        return [(r, n, text[cut]) for r, of_user in enumerate(texts) for n, text in enumerate(of_user)]

    def _script(self, number: int) -> list[int]:
        return [token for part in self._steps(number) for token in self.prompter.encode(part)]

    def _steps(self, number: int) -> tuple[str, str]:
        name = self.prompter.name([5, 1][number % 2])
        first = f"Evidence: ink {name}\nPreference: office, cheap"
        return first, f"\nIntent: more ink\nRecommendation: ink number {number}\nHistory: {name}"


@contextmanager
def served(recommender: Recommender, key: str = "") -> Iterator[str]:
    """A service in a thread; gives its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    app = serve.create_app(recommender, key=key)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def started(profile: Path) -> webdriver.Chrome:
    """A headless browser that speaks to nobody by itself."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("headless", "no-sandbox", "no-first-run", f"user-data-dir={profile}"):
        options.add_argument(f"--{argument}")
    for feature in QUIET:
        options.add_argument(f"--disable-{feature}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))


@dataclass
class Page:
    """What a person does on the page, and sees."""

    driver: webdriver.Chrome
    address: str
    folder: Path

    def js(self, expression: str) -> Any:
        return self.driver.execute_script(f"return {expression}")

    def until(self, expression: str) -> None:
        WebDriverWait(self.driver, PATIENCE, 0.02).until(lambda _: self.js(expression), expression)

    def open(self) -> None:
        self.driver.get(self.address)
        self.answered()

    def answered(self) -> None:
        self.until("document.querySelector('.recommended') && !document.querySelector('[aria-busy]')")

    def texts(self, selector: str) -> list[str]:
        return self.js(f"[...document.querySelectorAll({selector!r})].map((one) => one.textContent)")

    def one(self, selector: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def look(self, width: int, dark: bool) -> None:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def keep(self, name: str) -> None:
        """Keep a screenshot."""
        for folder in {self.folder, Path(os.environ.get("GREAM_SCREENSHOTS", self.folder))}:
            folder.mkdir(parents=True, exist_ok=True)
            assert self.driver.save_screenshot(str(folder / f"{name}.png"))

    def complaints(self) -> list[str]:
        """What the browser complained of: scripts, styles, the policy; not the answers that refuse."""
        told = [entry["message"] for entry in self.driver.get_log("browser")]
        return [message for message in told if "status of 4" not in message]

    def low_contrast(self) -> list[list[Any]]:
        """Texts whose contrast is below 4.5 to 1, with their contrast."""
        return self.driver.execute_script(_CONTRAST)

    def choose(self, mode: str) -> None:
        self.one(f"input[value={mode}]").click()

    def compose(self, *queries: str) -> None:
        """Make a history of the first item that each search finds."""
        Select(self.one("#customer")).select_by_visible_text("A history of my own")
        for place, query in enumerate(queries, start=1):
            self.one("#search").send_keys(query)
            self.until("!document.querySelector('#found').hidden")
            self.one("#found [role=option]").click()
            self.until(f"document.querySelectorAll('.card').length === {place}")


_CONTRAST = """
const number = (part) => (part <= 10 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4);
const rgb = (color) => color.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => 0.2126 * number(r) + 0.7152 * number(g) + 0.0722 * number(b);
const behind = (one) => {
  for (let at = one; at; at = at.parentElement) {
    const color = rgb(getComputedStyle(at).backgroundColor);
    if (color.length < 4 || color[3] > 0) return color;
  }
};
return [...document.querySelectorAll("body *")].filter((one) =>
  one.checkVisibility() && !one.closest(".unseen, .skip, .idle, :disabled, select, script") &&
  [...one.childNodes].some((child) => child.nodeType === 3 && child.data.trim())
).map((one) => {
  const [a, b] = [light(rgb(getComputedStyle(one).color)), light(behind(one))].sort((x, y) => y - x);
  return [one.outerHTML.slice(0, 80), (a + 0.05) / (b + 0.05)];
}).filter(([, ratio]) => ratio < 4.5);
"""
