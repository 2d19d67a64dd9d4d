"""The console where things are not as usual: several workers, a proxy, a restart, very much of something."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.cli.processes import started
from tests.console.pages import FAINT, UNNAMED, opened
from tests.deployment.nginx import needs_nginx, nginx
from tests.live_server import ECHO, LiveServer, replace, serving
from tests.network import free_port
from tests.openapi.varied import TYPED
from tests.wrappers import source

MANY = """
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_api(self, count: int):
        return self.words(count)

    def run_chat_completion(self, model, messages, body):
        return self.words(int(messages[-1]["content"]))

    def words(self, count):
        for number in range(count):
            yield f"{number} "
"""

LARGE = """
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_chat_completion(self, model, messages, body):
        return "**x** " * (int(messages[-1]["content"]) // 6)
"""

SLOW_COMPONENT = """
import time

from haystack import Pipeline, component

from hayhooks import BasePipelineWrapper


@component
class Waits:
    def __init__(self, seconds: float):
        self.seconds = seconds

    @component.output_types(text=str)
    def run(self, text: str):
        if text == "bad" and not self.seconds:
            raise ValueError("<b>no such text</b>")
        time.sleep(self.seconds)
        return {"text": text}


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        self.pipeline = Pipeline()
        self.pipeline.add_component("slow <i>", Waits(0.05))
        self.pipeline.add_component("quick", Waits(0))
        self.pipeline.connect("slow <i>.text", "quick.text")

    def run_api(self, text: str) -> str:
        return self.pipeline.run({"slow <i>": {"text": text}})["quick"]["text"]
"""


def echo(root: Path, answer: str = "") -> None:
    replace(root / "pipelines/echo/pipeline_wrapper.py", f"ANSWER = {answer!r}\n{ECHO}")


def run(page: Page, text: str) -> None:
    page.get_by_label("text", exact=True).fill(text)
    page.get_by_role("button", name="Run", exact=True).click()


def say(page: Page, text: str) -> None:
    message = page.get_by_label("Message", exact=True)
    message.fill(text)
    message.press("Enter")


@needs_nginx
def test_below_a_path_of_nginx(tmp_path: Path, page: Page):
    echo(tmp_path, "hi ")
    changes = {"location / {": "location /ai/ {", "proxy_pass http://hayhooks;": "proxy_pass http://hayhooks/;"}
    with (
        started(tmp_path, "run", "--root-path", "/ai") as server,
        nginx(tmp_path, server.port, changes=changes) as proxy,
    ):
        opened(page, f"{proxy.url}/ai/")
        page.get_by_role("link", name="echo").click()
        run(page, "you")
        expect(page.locator(".result")).to_have_text("hi you")
        before = server.get("/status/echo").json()["revision"]
        echo(tmp_path, "hello ")
        expect(page.locator(".facts").first).not_to_contain_text(before)
        run(page, "you")
        expect(page.locator(".result")).to_have_text("hello you")
        page.get_by_role("link", name="API").click()
        expect(page).to_have_url(f"{proxy.url}/ai/docs")
        page.goto("about:blank")


def test_two_workers_are_one_server(tmp_path: Path, page: Page):
    echo(tmp_path)
    with started(tmp_path, "run", "--workers", "2") as server:
        opened(page, server.url)
        expect(page.locator(".deployments h2")).to_have_text(["echo"])
        for _ in range(20):  # each on a connection of its own
            server.post("/echo/run", {"text": "x"})
        requests = page.locator(".numbers div").filter(has_text="requests").locator("dd")
        expect(requests).not_to_have_text("0.0 /s")
        replace(tmp_path / "pipelines/other/pipeline_wrapper.py", "ANSWER = ''\n" + ECHO)
        expect(page.locator(".deployments h2")).to_have_text(["echo", "other"])
        replace(tmp_path / "pipelines/other/pipeline_wrapper.py", "import nothing_there_at_all\n")
        expect(page.locator(".failure .reason")).to_contain_text("No module named 'nothing_there_at_all'")
        page.goto("about:blank")


def test_a_restart_is_told_and_nothing_typed_is_lost(tmp_path: Path, page: Page):
    port = free_port()
    echo(tmp_path, "before ")
    with started(tmp_path, "run", port=port) as server:
        opened(page, f"{server.url}/#/echo/run")
        page.get_by_label("text", exact=True).fill("half a sentence")
        assert server.stop() == 0
        expect(page.locator("#connection")).to_have_text("no connection: trying again")
        page.get_by_role("button", name="Run", exact=True).click()
        expect(page.locator(".answer .facts")).to_contain_text("the connection broke")
    echo(tmp_path, "after ")
    replace(tmp_path / "pipelines/other/pipeline_wrapper.py", "ANSWER = ''\n" + ECHO)
    with started(tmp_path, "run", port=port):
        expect(page.locator("#connection")).to_have_text("live")
        expect(page.get_by_label("text", exact=True)).to_have_value("half a sentence")
        page.get_by_role("button", name="Run", exact=True).click()
        expect(page.locator(".result")).to_have_text("after half a sentence")
        page.get_by_role("link", name="← Deployments").click()
        expect(page.locator(".deployments h2")).to_have_text(["echo", "other"])
        page.goto("about:blank")


def test_100_000_chunks_of_a_run_are_shown_up_to_a_limit(server: LiveServer, page: Page):
    server.serve("many", MANY)
    opened(page, f"{server.url}/#/many/run")
    page.get_by_label("count*").fill("100000")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.get_by_text("The first 200,000 of 588,890 characters.")).to_be_visible(timeout=60_000)
    expect(page.locator(".result")).to_contain_text(re.compile("^0 1 2 3 "))
    with page.expect_download() as download:
        page.get_by_role("link", name="Download all").click()
    assert download.value.path().read_text().endswith(" 99999 ")


def test_100_000_chunks_of_a_chat_leave_the_page_usable(server: LiveServer, page: Page):
    server.serve("many", MANY)
    opened(page, f"{server.url}/#/many/chat")
    page.set_default_timeout(60_000)  # a click waits until two frames are drawn
    say(page, "100000")
    answer = page.locator(".turns .assistant").last
    expect(answer.locator(".said")).to_contain_text("0 1 2 3 ", timeout=60_000)
    page.get_by_role("tab", name="Run").click()  # while the chunks come
    page.get_by_label("count*").fill("3")
    page.get_by_role("tab", name="Chat").click()
    expect(answer.locator(".facts.good")).to_contain_text("200", timeout=60_000)  # it has ended
    expect(answer.locator(".said")).to_contain_text("0 1 2 3 ", timeout=60_000)
    say(page, "3")
    expect(page.locator(".turns .assistant .said").last).to_have_text("0 1 2 ", timeout=60_000)


def test_20_mb_of_a_chat_leave_the_page_usable(server: LiveServer, page: Page):
    server.serve("large", LARGE)
    opened(page, f"{server.url}/#/large/chat")
    say(page, "20000000")
    answer = page.locator(".turns .assistant").last
    expect(answer.locator(".facts.good")).to_contain_text("200", timeout=60_000)  # it has ended
    expect(answer.get_by_text("The first 200,000 of 19,999,998 characters.")).to_be_visible()
    assert answer.evaluate("each => each.textContent.length") < 300_000
    say(page, "12")
    expect(page.locator(".turns .assistant strong").last).to_have_text("x")


def test_a_deployment_that_goes_away_ends_what_it_began(server: LiveServer, page: Page):
    server.serve("many", MANY.replace("yield", "__import__('time').sleep(0.01)\n            yield"))
    opened(page, f"{server.url}/#/many/chat")
    say(page, "150")
    answer = page.locator(".turns .assistant").last
    expect(answer.locator(".said")).to_contain_text("0 1 2 ")
    server.remove("many")
    expect(page.get_by_text("is not in the pipelines directory")).to_be_visible()
    expect(answer.locator(".said")).to_contain_text("148 149")
    say(page, "3")
    expect(page.locator(".turns .assistant").last).to_contain_text("404")


def test_without_a_mouse(server: LiveServer, page: Page):
    server.serve("stream", source("stream"))
    opened(page, server.url)
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="stream")).to_be_focused()
    page.keyboard.press("Enter")
    tab = page.get_by_role("tab").first
    tab.focus()
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("tab").last).to_be_focused()
    expect(page.get_by_role("tabpanel", name=page.get_by_role("tab").last.text_content() or "")).to_be_visible()
    page.keyboard.press("ArrowRight")
    expect(tab).to_have_attribute("aria-selected", "true")
    page.get_by_label("As JSON").focus()
    page.keyboard.press("Control+Enter")
    expect(page.locator(".answer .facts").first).to_contain_text("200")


@pytest.mark.parametrize("width", [360, 2560])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_is_named_and_legible_on_any_screen(root: Path, browser: Browser, scheme: str, width: int):
    with serving(root, traces=50) as server:
        server.serve("waits", SLOW_COMPONENT)
        server.serve("typed", TYPED)
        server.write("broken", "raise ValueError('" + "long" * 100 + "')\n")
        for text in ("good", "bad"):
            server.client.post("/waits/run", json={"text": text})
        server.app.state.numbers.take()
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]  # one of its literals
        for place, shown in {
            "": ".failure",
            "#requests": ".requests summary",
            "#numbers": "figure",
            "#/typed/run": "form.run",
            "#/waits/requests": ".requests summary",
            "#/waits/drawing": "[data-component]",
            "#/waits/history": ".history li",
        }.items():
            opened(page, f"{server.url}/{place}")
            page.locator(shown).first.wait_for()
            if shown == ".requests summary":
                page.locator(shown).first.click()
                page.locator(".waterfall").first.wait_for()
            assert page.evaluate("document.documentElement.scrollWidth") <= width, place
            assert page.evaluate(UNNAMED) == [], place
            assert page.evaluate(FAINT) == [], place
            assert page.locator("main").evaluate("each => each.clientWidth") <= 1600, place  # lines that one can read
        page.close()
