"""A headless Chromium with its own profile."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

webdriver: Any = pytest.importorskip("selenium.webdriver", reason="needs selenium, a development dependency")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

_FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --window-size=1440,900"
)


@contextmanager
def browsing(profile: Path) -> Iterator[Any]:
    """Run a browser with a private *profile*."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*_FLAGS.split(), f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # Chromium writes to the home folder, whatever its profile is.
    service = webdriver.ChromeService(executable_path=DRIVER, env=os.environ | {"HOME": str(profile)})
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_page_load_timeout(180)
    try:
        yield driver
    finally:
        driver.quit()
