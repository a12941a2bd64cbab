"""The browser that pages are tested in, where there is one."""

import shutil

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic")
needs_browser = pytest.mark.skipif(
    not BROWSER, reason=f"none of {', '.join(NAMES)} is installed"
)
