"""The console in a browser, for scripts/bench."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import bench_servers as servers
from playwright.sync_api import Page, sync_playwright

# Resolves with the moment, in Unix seconds, at which a picture with *text* is ready to be shown.
SEEN = """
text => {
  window.seen = new Promise((resolve) => {
    const look = () => {
      if (!document.body.textContent.includes(text)) return;
      observer.disconnect();
      requestAnimationFrame(() => resolve((performance.timeOrigin + performance.now()) / 1000));
    };
    const observer = new MutationObserver(look);
    observer.observe(document.body, { subtree: true, childList: true, characterData: true });
  });
}
"""


@contextmanager
def opened(url: str) -> Iterator[Page]:
    """Show the console's list of deployments during the block."""
    path = shutil.which("chromium")
    if path is None:
        raise RuntimeError("the row console needs Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(url)
        page.locator("#connection.live").wait_for()
        yield page
        browser.close()


def save_until_seen(page: Page, folder: Path) -> float:
    """Save the wrapper in *folder* with another description; return the seconds until *page* shows it."""
    text = f"Saved at {time.time_ns()}."
    page.evaluate(SEEN, text)
    began = time.time()
    servers.write_wrapper(folder, f'__doc__ = "{text}"\n{servers.TRIVIAL}')
    seen: float = page.evaluate("() => window.seen")
    return seen - began
