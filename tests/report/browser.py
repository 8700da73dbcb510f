"""A real browser without a screen, and what it has to complain about."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

INSTALL = "apt-get install --no-install-recommends chromium chromium-driver"
FLAGS = (
    "--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars",
)  # fmt: skip
OWN = ("file:", "data:", "blob:", "about:")  # addresses that need no network


@dataclass(frozen=True)
class Browser:
    """Chromium by its driver."""

    driver: Any

    def open(self, page: Path | str, *, width: int = 1200, height: int = 900, scheme: str = "light") -> None:
        """Show a page, by its file or address, on a screen of that width, where the system prefers that scheme."""
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        self.prefer(scheme)
        self.driver.get(page if isinstance(page, str) else page.as_uri())
        self.until("document.readyState === 'complete'")

    def prefer(self, scheme: str) -> None:
        """The system changes to light or dark."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def ask(self, expression: str) -> Any:
        """The value of an expression of JavaScript."""
        return self.driver.execute_script(f"return {expression}")

    def until(self, expression: str) -> None:
        """Wait for it to be true."""
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, 60, 0.05).until(lambda _: self.ask(expression), expression)

    def click_all(self, selector: str) -> int:
        """Click every element there is, one after the other, as a person does, and give how many there were."""
        from selenium.webdriver.common.by import By

        found = self.driver.find_elements(By.CSS_SELECTOR, selector)
        for element in found:
            self.driver.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
            element.click()
        return len(found)

    def complaints(self, *own: str) -> list[str]:
        """What the console was told since last asked, and addresses asked for that begin with none of its ``own``."""
        said = [f"{entry['level']}: {entry['message']}" for entry in self.driver.get_log("browser")]
        asked = []
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] in {"Network.requestWillBeSent", "Network.webSocketCreated"}:
                held = message["params"]
                asked.append(held["request"]["url"] if "request" in held else held["url"])
        return said + [f"request: {url[:200]}" for url in asked if not url.startswith((*OWN, *own))]


def missing() -> str | None:
    """Why there is no browser here, with the command that helps."""
    if shutil.which("chromium") is None or shutil.which("chromedriver") is None:
        return f"no Chromium with its driver here, so no page was opened: {INSTALL}"
    return None


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """A browser with an empty profile. Skips the test where none is installed."""
    if missing():
        pytest.skip(missing() or "")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in (*FLAGS, f"--user-data-dir={profile}", *(["--no-sandbox"] if os.geteuid() == 0 else [])):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        opened = Browser(driver)
        driver.get("about:blank")
        opened.complaints()  # of the page that a new browser shows
        yield opened
    finally:
        driver.quit()
