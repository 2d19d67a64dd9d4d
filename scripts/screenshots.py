"""Make screenshots of the console; see scripts/screenshots."""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import httpx
from playwright.sync_api import Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
HAYHOOKS = Path(sys.executable).with_name("hayhooks")
EXAMPLES = ("agent", "answer.yml", "ask_docs", "chat_docs", "durable/pipelines/refund", "echo")
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
REQUESTS_S = 20  # the charts have a bar for every 5 s
READY_S = 90


class View(NamedTuple):
    """One screenshot in each scheme."""

    place: str  # in the page's address
    act: Callable[[Page], object] = lambda page: None  # what a person does there
    width: int = 1280
    height: int = 800  # at most; a shorter page gives a shorter image


def run(page: Page, **fields: str) -> None:
    for label, text in fields.items():
        page.get_by_label(label).first.fill(text)
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.locator(".answer .facts").first).to_contain_text("200")


def chat(page: Page, *messages: str) -> None:
    for number, message in enumerate(messages, 1):
        page.get_by_label("Message", exact=True).fill(message)
        page.get_by_role("button", name="Send", exact=True).click()
        expect(page.locator(".turns .assistant .facts")).to_have_count(number)
        expect(page.get_by_role("button", name="Stop")).to_be_hidden()


def open_question(page: Page) -> None:
    page.get_by_role("link", name="refund").first.click()
    expect(page.get_by_role("button", name="Answer")).to_be_visible()


VIEWS = {
    "deployments": View("#/"),
    "run": View("#/ask_docs/run", lambda page: run(page, question="Is there power in the huts?")),
    "chat": View("#/chat_docs/chat", lambda page: chat(page, "When is the hut open?", "What does a night cost?")),
    "requests": View("#requests", lambda page: page.locator(".requests summary", has_text="ask_docs").first.click()),
    "execution": View("#executions", open_question),
    "numbers": View("#numbers"),
    "drawing": View("#/chat_docs/drawing"),
    "history": View("#/echo/history"),
    "phone": View("#/agent/chat", lambda page: chat(page, "What is 17 * 23?"), width=390, height=780),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/screenshots", description="Make screenshots of the console.")
    parser.add_argument("--views", default=",".join(VIEWS), help="default: %(default)s")
    parser.add_argument("--to", type=Path, default=IMAGES, help="folder, default: docs/images")
    arguments = parser.parse_args()
    wanted = arguments.views.split(",")
    if unknown := sorted({*wanted} - {*VIEWS}):
        parser.error(f"no such view: {', '.join(unknown)}; there are: {', '.join(VIEWS)}")
    chromium = shutil.which("chromium")
    if chromium is None:
        parser.error("no Chromium on this machine: apt-get install chromium")
    arguments.to.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # else the server would go on
    with (
        tempfile.TemporaryDirectory(prefix="demo-") as folder,
        served(Path(folder) / "pipelines") as url,
        sync_playwright() as tool,
    ):
        browser = tool.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name in wanted:
            view = VIEWS[name]
            for scheme in SCHEMES:
                page = browser.new_page(viewport={"width": view.width, "height": view.height}, color_scheme=scheme)
                page.goto(f"{url}/{view.place}")
                expect(page.locator("#connection")).to_have_text("live")
                view.act(page)
                page.wait_for_timeout(500)  # the numbers come last
                path = arguments.to / f"console-{name}-{scheme}.png"
                height = min(view.height, page.evaluate("document.body.scrollHeight"))
                page.screenshot(path=path, clip={"x": 0, "y": 0, "width": view.width, "height": height})
                print(path, f"{path.stat().st_size:,} bytes")
                page.close()
        browser.close()
    return 0


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve copies of the examples, after some requests and with one that a save has broken."""
    folder.mkdir()
    for name in EXAMPLES:
        source = ROOT / "examples" / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / source.name)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [HAYHOOKS, "dev", folder, "--port", str(port)]
    environment = {"HAYSTACK_TELEMETRY_ENABLED": "false", **os.environ}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as server:
        try:
            until = time.monotonic() + READY_S
            while not is_serving(url):
                if time.monotonic() > until or server.poll() is not None:
                    sys.exit("the server does not serve the examples")
                time.sleep(0.2)
            send_requests(url)
            wrapper = folder / "echo" / "pipeline_wrapper.py"
            wrapper.write_text(wrapper.read_text().replace("return text", "return text.strip()", 1))
            time.sleep(1)  # a revision of its own
            wrapper.write_text(wrapper.read_text().replace("\nfrom", "\nfrom slugify import slugify\n\nfrom", 1))
            yield url
        finally:
            server.send_signal(signal.SIGTERM)


def is_serving(url: str) -> bool:
    try:
        return len(httpx.get(f"{url}/status").json()["pipelines"]) == len(EXAMPLES)
    except httpx.HTTPError:
        return False


def send_requests(url: str) -> None:
    """Ask each pipeline for some time, with mistakes too."""
    until = time.monotonic() + REQUESTS_S
    number = 0
    with httpx.Client(base_url=url, timeout=30) as client:
        client.post("/refund/run-durable", json={"text": "My lamp arrived broken, I paid 19.90 for it."})
        while time.monotonic() < until:
            number += 1
            client.post("/ask_docs/run", json={"question": "How cold does it get in the night?"})
            if number % 3 == 0:
                client.post("/chat_docs/run", json={"question": "May I bring my dog?"})
            if number % 5 == 0:
                client.post("/agent/run", json={"question": "What is 12 * 12?"})
            if number % 16 == 0:
                client.post("/ask_docs/run", json={"question": "", "top_k": 99})
            time.sleep(0.15 + 0.1 * (number % 7))


if __name__ == "__main__":
    sys.exit(main())
