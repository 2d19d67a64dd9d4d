"""The console in a real browser, which may reach this server only."""

import re
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, FilePayload, Page, expect
from starlette.applications import Starlette
from starlette.routing import Mount

from hayhooks import Settings, create_app
from tests.console.pages import FAINT, UNNAMED, opened
from tests.live_server import LiveServer, also_at, replace, serving
from tests.openapi.varied import TYPED, UPLOADS
from tests.wrappers import source

HTML = {"Accept": "text/html,*/*;q=0.8"}

CHAT = """
import time
from haystack.dataclasses import ReasoningContent, StreamingChunk
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    '''<img src=x onerror=alert(1)> description'''

    def setup(self):
        pass

    def run_chat_completion(self, model, messages, body):
        text = messages[-1]["content"]
        yield {"type": "status", "data": {"description": "<b>Looking</b>", "done": True}}
        source = {"name": "<i>book</i>", "url": "javascript:alert(2)"}
        yield {"type": "source", "data": {"source": source, "document": ["x"]}}
        yield {"type": "tool_call_end", "data": {"name": "search", "arguments": {}, "result": "found", "error": False}}
        yield StreamingChunk("", reasoning=ReasoningContent("Let me think."), index=0)
        yield f"**{len(messages)}** {text} <script>alert(3)</script> [link](javascript:alert(4)) ![x](https://elsewhere.example/x)"
        yield "\\n\\n| a |\\n|:-:|\\n| {} |\\n".format(body.get("temperature"))
        while text == "endless":
            time.sleep(0.01)
            yield "more "
"""

STREAM = """
import time
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_api(self, count: int = 3):
        for number in range(count):
            yield f"<b>{number}</b> "
            time.sleep(0.01)
"""

CYCLIC = """
from __future__ import annotations
from pydantic import BaseModel
from hayhooks import BasePipelineWrapper


class Node(BaseModel):
    label: str
    next: Node | None = None


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_api(self, node: Node | None = None, size: int = 0):
        return node.model_dump() if node else "x" * size
"""


def test_the_root_is_a_page_for_browsers_and_json_for_others(server: LiveServer):
    page = server.client.get("/", headers=HTML)
    places = server.client.get("/")

    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert places.json() == {"status": "/status", "docs": "/docs", "openapi": "/openapi.json", "models": "/v1/models"}
    assert all("Accept" in answer.headers["vary"] for answer in (page, places))
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert not re.search(r"unsafe|https?:|\*|data:", policy)


def test_files_are_revalidated(server: LiveServer):
    page = server.client.get("/", headers=HTML)
    for path in ("", *re.findall(r'(?:src|href)="(console/[^"]+)"', page.text)):
        first = server.client.get(f"/{path}", headers=HTML)
        assert first.status_code == 200, path
        assert first.headers["cache-control"] == "no-cache"
        again = server.client.get(f"/{path}", headers={**HTML, "If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("name", ["nothing.js", "..%2fpage.py", "__init__.py"])
def test_other_files_are_not_served(server: LiveServer, name: str):
    assert server.client.get(f"/console/static/{name}").status_code == 404


def test_the_console_can_be_turned_off(root: Path):
    with serving(root, console=False) as server:
        assert server.client.get("/", headers=HTML).status_code == 404
        assert server.client.get("/console/static/main.js").status_code == 404
        assert server.client.get("/console/numbers").status_code == 200


def test_a_save_a_failure_and_a_removal_appear_without_a_reload(server: LiveServer, page: Page):
    opened(page, server.url)
    expect(page.get_by_text("Nothing is served yet.")).to_be_visible()

    server.serve("echo")
    server.serve("a")
    expect(page.locator(".deployments h2")).to_have_text(["a", "echo"])
    server.write("echo", "import nothing_there_at_all\n")
    expect(page.locator(".deployments h2")).to_have_text(["echo", "a"])  # what is stale stands first
    failure = page.locator(".failure")
    expect(failure).to_contain_text("No module named 'nothing_there_at_all'")
    expect(failure.locator(".place")).to_contain_text("echo/pipeline_wrapper.py:1")
    expect(failure.locator(".here")).to_contain_text("import nothing_there_at_all")
    expect(failure).to_contain_text("keeps serving")
    server.remove("echo")
    expect(page.locator(".deployments h2")).to_have_text(["a"])


def test_a_save_keeps_what_is_typed_and_selected(server: LiveServer, page: Page):
    server.serve("echo")
    opened(page, f"{server.url}/#/echo/run")
    field = page.locator("form.run .object textarea").first
    field.fill("half a sen")
    field.evaluate("each => each.setSelectionRange(1, 4)")
    before = page.locator(".facts").first.text_content()

    server.serve("echo", ANSWER="new ")

    expect(page.locator(".facts").first).not_to_have_text(before or "")
    expect(field).to_be_focused()
    assert field.evaluate("each => [each.value, each.selectionStart, each.selectionEnd]") == ["half a sen", 1, 4]
    page.get_by_role("tab", name="History").click()
    expect(page.locator(".history .deployed")).to_have_count(2)


def test_a_form_of_nested_types_runs_and_its_json_stands_beside_it(server: LiveServer, page: Page):
    server.serve("typed", TYPED)
    opened(page, f"{server.url}/#/typed")
    page.get_by_role("button", name="Add an item").first.click()
    page.get_by_label("name*").fill("Hammer")
    page.get_by_label("price*").fill("3.5")
    page.get_by_label("colour").select_option("blue")
    json = page.get_by_label("As JSON")
    expect(json).to_have_value(re.compile(r'"Hammer",\s+"price": 3.5,\s+"colour": "blue"'))

    page.get_by_role("button", name="Run", exact=True).click()

    expect(page.locator(".answer .facts")).to_contain_text(re.compile(r"200 · .* ms · revision \w+ · request \w+"))
    expect(page.locator(".result")).to_contain_text('"colour": "blue"')
    json.fill('{"items": [{"name": "Saw", "price": 2}], "unit": "g"}')
    expect(page.get_by_label("name*")).to_have_value("Saw")
    expect(page.get_by_label("unit")).to_have_value("1")
    json.fill("{")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.get_by_role("alert").filter(has_text="not valid")).to_be_visible()


def test_files_are_sent(server: LiveServer, page: Page):
    server.serve("uploads", UPLOADS)
    opened(page, f"{server.url}/#/uploads/run")
    named: list[FilePayload] = [
        {"name": name, "mimeType": "text/plain", "buffer": b"x"} for name in ("a.txt", "<b>.txt")
    ]
    page.get_by_label("files*").set_input_files(named)
    page.get_by_label("title*").fill("both")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.locator(".result")).to_contain_text('"files": 2')
    page.get_by_role("button", name="Copy as curl").click()
    expect(page.get_by_label("Request", exact=True)).to_contain_text("-F 'files=@<b>.txt'")


def test_text_is_streamed_as_text_and_can_be_stopped(server: LiveServer, page: Page):
    server.serve("stream", STREAM)
    opened(page, f"{server.url}/#/stream/run")
    page.get_by_label("count").fill("100000")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.locator(".result")).to_contain_text("<b>3</b>")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".answer .facts")).to_contain_text("stopped")
    page.get_by_label("count").fill("2")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.locator(".result")).to_have_text("<b>0</b> <b>1</b> ")


def test_a_schema_with_a_cycle_and_an_answer_of_20_mb(server: LiveServer, page: Page):
    server.serve("cyclic", CYCLIC)
    opened(page, f"{server.url}/#/cyclic/run")
    page.get_by_role("button", name="Fill in").click()
    page.get_by_role("button", name="Fill in").click()
    page.get_by_label("label*").last.fill("inner")
    expect(page.get_by_label("As JSON")).to_have_value(re.compile(r'"next": \{\s+"label": "inner"'))
    page.get_by_label("As JSON").fill('{"size": 20000000}')
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.get_by_text("The first 200,000 of 20,000,000 characters.")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download all").click()
    assert download.value.path().stat().st_size == 20_000_000


def test_a_chat_has_turns_markdown_events_and_reasoning_and_never_html_of_a_pipeline(server: LiveServer, page: Page):
    server.serve("chat", CHAT)
    opened(page, f"{server.url}/#/chat/chat")
    page.get_by_text("System prompt and parameters").click()
    page.get_by_label("System prompt", exact=True).fill("Be short.")
    page.get_by_label("Parameters, as JSON").fill('{"temperature": 0.5}')
    message = page.get_by_label("Message", exact=True)
    message.fill("first <img src=x onerror=alert(5)>")
    message.press("Enter")
    answer = page.locator(".turns .assistant").first
    expect(answer.locator("strong")).to_have_text("2")
    expect(answer.locator("td")).to_have_text("0.5")
    expect(answer.locator(".said")).to_contain_text("<script>alert(3)</script> [link](javascript:alert(4))")
    expect(answer.locator(".progress")).to_have_text("<b>Looking</b>")
    expect(answer.locator(".sources summary")).to_have_text("<i>book</i>")
    expect(answer.get_by_text("Tool: search")).to_be_visible()
    answer.get_by_text("Reasoning").click()
    expect(answer.get_by_text("Let me think.")).to_be_visible()
    assert page.locator("main img, main script, a[href^=javascript]").count() == 0

    message.fill("second")
    message.press("Enter")
    expect(page.locator(".turns .assistant strong").last).to_have_text("4")
    page.get_by_role("button", name="Edit").first.click()
    expect(page.locator(".turns li.user")).to_have_count(0)
    expect(message).to_have_value("first <img src=x onerror=alert(5)>")
    message.fill("endless")
    message.press("Enter")
    expect(page.locator(".turns .assistant .said")).to_contain_text("more more")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".turns .assistant .facts")).to_contain_text("stopped")


def test_a_deployment_that_goes_away_keeps_its_page(server: LiveServer, page: Page):
    server.serve("echo")
    opened(page, f"{server.url}/#/echo/run")
    page.locator("form.run .object textarea").first.fill("typed")
    server.remove("echo")
    expect(page.get_by_text("is not in the pipelines directory")).to_be_visible()
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.locator(".answer .facts")).to_contain_text("404")
    server.serve("echo")
    expect(page.locator(".state")).to_have_text("serving")
    expect(page.locator("form.run .object textarea").first).to_have_value("typed")


def test_a_key_is_asked_for_and_kept_for_the_tab(root: Path, page: Page, browser: Browser):
    with serving(root, api_keys=["secret"]) as server:
        assert httpx.get(server.url, headers=HTML).status_code == 200
        server.client.headers["Authorization"] = "Bearer secret"
        server.serve("echo")
        page.goto(server.url)
        expect(page.get_by_text("This server needs an API key.")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.get_by_text("This server needs an API key.")).to_be_visible()
        page.get_by_role("textbox", name="Key").fill("two words")
        page.get_by_role("button", name="Continue").click()
        expect(page.get_by_role("dialog")).to_be_visible()
        page.get_by_role("textbox", name="Key").fill("wrong")
        page.get_by_role("button", name="Continue").click()
        expect(page.get_by_text("The API key is not valid.")).to_be_visible()
        page.get_by_role("textbox", name="Key").fill("secret")
        page.get_by_role("button", name="Continue").click()
        expect(page.locator(".deployments h2")).to_have_text(["echo"])
        page.reload()
        expect(page.locator(".deployments h2")).to_have_text(["echo"])
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
        page.goto("about:blank")


def test_a_key_of_too_few_scopes_is_told_what_it_may_not(root: Path, tmp_path: Path, page: Page):
    replace(tmp_path / "keys", "admin:secret\ncaller:calling:call\n")
    with serving(root, api_keys_file=tmp_path / "keys") as server:
        server.client.headers["Authorization"] = "Bearer secret"
        server.serve("echo")
        page.goto(f"{server.url}/#/echo/run")
        page.get_by_role("textbox", name="Key").fill("calling")
        page.get_by_role("button", name="Continue").click()
        expect(page.locator("#connection")).to_have_text("no live changes: the API key may not read")
        told = "The API key 'caller' may not read what the server tells: its scopes are 'call'"
        expect(page.locator("main .about").first).to_have_text(told)
        page.goto("about:blank")


def test_it_works_below_a_prefix(root: Path, page: Page):
    app = create_app(Settings(pipelines_dir=root, _env_file=None))
    with serving(root, app) as server, also_at(Starlette(routes=[Mount("/below/it", app)])) as url:
        server.serve("echo", ANSWER="")
        opened(page, f"{url}/below/it")
        page.get_by_role("link", name="echo").click()
        page.locator("form.run .object textarea").first.fill("hello")
        page.get_by_role("button", name="Run", exact=True).click()
        expect(page.locator(".answer .facts")).to_contain_text("200")
        page.goto("about:blank")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_and_each_field_has_a_name_and_contrast(server: LiveServer, browser: Browser, scheme: str):
    server.serve("typed", TYPED)
    server.serve("stream", source("stream"))
    server.serve("l" * 70)
    server.write("broken", "raise ValueError('" + "long" * 100 + "')\n")
    page = browser.new_page(viewport={"width": 360, "height": 700}, color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]  # one of its literals
    for place in ("", "#/typed/run", "#/stream/run", "#/typed/history", "#/broken", f"#/{'l' * 70}/protocols"):
        opened(page, f"{server.url}/{place}")
        page.wait_for_function("document.querySelector('h1')")
        if "protocols" in place:
            page.get_by_text("Tool l").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, place
        assert page.evaluate(UNNAMED) == [], place
        assert page.evaluate(FAINT) == [], place
    page.close()
