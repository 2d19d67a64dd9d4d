"""A real browser, which may reach the test's server only."""

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

expect.set_options(timeout=60_000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    path = shutil.which("chromium") or pytest.skip("no Chromium on this machine: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page whose test fails at a message in the console, an exception, a dialog, or a request to another origin."""
    complaints: list[str] = []
    page = browser.new_page()
    page.set_default_timeout(60_000)
    page.add_init_script("window.alert = (what) => console.error('alert', what)")
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: None if "://127.0.0.1:" in request.url else complaints.append(request.url))
    yield page
    page.close()
    # Chromium itself reports each status above 399 there; what the page does with it, the tests see.
    assert not [complaint for complaint in complaints if not complaint.startswith("Failed to load resource")]
