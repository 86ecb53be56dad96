"""Chromium without a window, driven as a person would use it, and what it shows."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

SCREENSHOTS = "RECIPE_SCREENSHOTS"
"""The environment variable that names the folder for screenshots."""

PATIENCE = 120
"""Seconds until a page must show what it is to show; on a busy machine the first one is slow."""

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)

DRIVER = shutil.which("chromedriver")

needed = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="Chromium or its driver, chromedriver, isn't installed"
)

OPTIONS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1900,1200")

T = TypeVar("T")

TABLES = "return [...document.querySelectorAll('table')].map(t => [...t.rows].map(r => "
TABLES += "[...r.cells].map(c => c.innerText.trim())))"

GRID = """
const rows = {};
for (const row of document.querySelectorAll('[row-index]')) {
    const cells = rows[row.getAttribute('row-index')] ??= {};
    for (const cell of row.querySelectorAll('[col-id]'))
        cells[cell.getAttribute('col-id')] = cell.innerText.trim();
}
return Object.values(rows);
"""

HEADERS = """
return [...document.querySelectorAll('[role=columnheader][col-id]')]
    .sort((a, b) => a.getBoundingClientRect().left - b.getBoundingClientRect().left)
    .map(header => header.getAttribute('col-id'));
"""

Grid = list[dict[str, str]]
"""A row's cells by their column's id; a grid draws only what is in sight, so it may lack some."""


class Browser:
    def __init__(self, driver: webdriver.Chrome, folder: Path) -> None:
        self._driver, self._folder = driver, folder

    def open(self, address: str) -> None:
        self._driver.get("about:blank")  # a page whose fragment alone changes isn't loaded anew
        self._driver.get(address)

    @property
    def address(self) -> str:
        return str(self._driver.current_url)

    def keep(self, name: str) -> None:
        """Keeps a screenshot."""
        self._driver.save_screenshot(str(self._folder / f"{name}.png"))

    def wait(self, what: str, found: Callable[[], T | None]) -> T:
        """Waits until `found` finds something, and returns that."""

        def attempt(_: object) -> T | None:
            try:
                return found()
            except WebDriverException:  # drawn anew meanwhile
                return None

        try:
            return WebDriverWait(self._driver, PATIENCE).until(attempt)  # type: ignore[return-value]
        except WebDriverException:
            self.keep("missed")
            pytest.fail(f"{what}: not on {self.address}, which says:\n{self.text}")

    def shows(self, *texts: str) -> None:
        """Waits until the page says all of it."""
        for text in texts:
            self.wait(repr(text), lambda text=text: text in self.text)  # type: ignore[misc]

    @property
    def text(self) -> str:
        return self._driver.find_element(By.TAG_NAME, "body").text

    def tables(self) -> list[list[list[str]]]:
        """The cells of every table of the page."""
        return list(self._driver.execute_script(TABLES))

    def grid(self, rows: int) -> Grid:
        """The grid of runs, once it has so many rows."""

        def complete() -> Grid | None:
            found: Grid = self._driver.execute_script(GRID)
            widest = max(map(len, found), default=0)
            whole = len(found) == rows and all(len(row) == widest > 3 for row in found)
            return found if whole else None

        return self.wait(f"a grid of {rows} rows", complete)

    def script(self, script: str, *arguments: object) -> object:
        return self._driver.execute_script(script, *arguments)

    def click(self, what: str, path: str) -> None:
        """Clicks what is found by an XPath."""

        def clicked() -> bool:
            element: WebElement = self._driver.find_element(By.XPATH, path)
            self._driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
            element.click()
            return True

        self.wait(what, clicked)

    @contextlib.contextmanager
    def frame(self, path: str) -> Iterator[None]:
        """Within, the page is that of the frame found by an XPath."""
        frame = self.wait("a frame", lambda: self._driver.find_element(By.XPATH, path))
        self._driver.switch_to.frame(frame)
        try:
            yield
        finally:
            self._driver.switch_to.default_content()


@contextlib.contextmanager
def started(folder: Path) -> Iterator[Browser]:
    """A browser that keeps its screenshots in a folder, or in that of the environment."""
    folder = Path(os.environ.get(SCREENSHOTS) or folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    options = webdriver.ChromeOptions()
    for option in OPTIONS:
        options.add_argument(option)
    options.binary_location = str(CHROMIUM)
    os.environ["SE_OFFLINE"] = "true"  # no driver is looked for elsewhere
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    driver.set_page_load_timeout(PATIENCE)
    try:
        yield Browser(driver, folder)
    finally:
        driver.quit()
