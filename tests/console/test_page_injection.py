"""Pipelines that try to put HTML into the console: whatever they send, the page shows text."""

from playwright.sync_api import Page, expect

from tests.console.pages import opened
from tests.live_server import ECHO, LiveServer

IMAGE = "<img src=x onerror=alert(1)>"
NAME = "<b onclick=alert(1)>&amp;'\""

EVERYWHERE = f"""
from typing import Literal

from pydantic import BaseModel, Field
from starlette.responses import Response

from hayhooks import BasePipelineWrapper

IMAGE = {IMAGE!r}


class Parts(BaseModel):
    '''<img src=x onerror=alert(1)>'''

    part: str = Field(IMAGE, title=IMAGE, description=IMAGE)


class PipelineWrapper(BasePipelineWrapper):
    '''<img src=x onerror=alert(1)>'''

    def setup(self):
        pass

    def run_api(self, how: Literal["text", "json", "html", "file", "error"], parts: Parts | None = None):
        '''<img src=x onerror=alert(1)>

        Args:
            how: <img src=x onerror=alert(1)>
        '''
        if how == "error":
            raise ValueError(IMAGE)
        if how == "html":
            return Response(IMAGE, media_type="text/html")
        if how == "file":
            disposition = f'attachment; filename="{{IMAGE}}.bin"'
            return Response(b"x", media_type="application/octet-stream", headers={{"Content-Disposition": disposition}})
        return {{IMAGE: [IMAGE]}} if how == "json" else IMAGE

    def run_chat_completion(self, model, messages, body):
        for kind in ("status", "source", "notification", "message", IMAGE):
            yield {{"type": kind, "data": {{"description": IMAGE, "content": IMAGE, "type": IMAGE, "document": [IMAGE],
                   "source": {{"name": IMAGE, "url": "javascript:alert(1)"}}}}}}
        yield f"{{IMAGE}} [link](javascript:alert(1)) ![image](javascript:alert(1)) <javascript:alert(1)> `{{IMAGE}}`"
        raise ValueError(IMAGE)
"""


def run(page: Page, how: str) -> None:
    page.get_by_label("how*").select_option(how)
    page.get_by_role("button", name="Run", exact=True).click()


def assert_nothing_injected(page: Page) -> None:
    assert page.locator("main :is(img, script, b, iframe), [onclick], [onerror], a[href^='javascript' i]").count() == 0


def test_names_descriptions_errors_and_answers_are_text(server: LiveServer, page: Page):
    for text in ("before", "after"):
        server.serve("it", EVERYWHERE, files={f"{IMAGE}.md": text})
    server.write(NAME)  # which is none, and told
    server.write("broken", f"# {IMAGE}\nraise ValueError({IMAGE!r})  # {IMAGE}\n")
    opened(page, server.url)
    expect(page.locator(".deployments h2")).to_have_text([NAME, "broken", "it"])
    expect(page.locator(".failure .reason").first).to_contain_text("cannot be a part of a URL")
    expect(page.locator(".failure .reason").last).to_contain_text(IMAGE)
    expect(page.locator(".failure .source").last).to_contain_text(IMAGE)
    expect(page.locator(".deployments .about").filter(has_text=IMAGE)).to_be_visible()
    assert_nothing_injected(page)

    page.get_by_role("link", name=NAME, exact=True).click()
    expect(page.locator("h1")).to_have_text(NAME)
    assert_nothing_injected(page)
    page.goto(f"{server.url}/#/it/run")
    for how, told in (("text", IMAGE), ("json", IMAGE), ("html", IMAGE), ("error", "500"), ("file", f"{IMAGE}.bin")):
        run(page, how)
        expect(page.locator(".answer")).to_contain_text(told)
        assert_nothing_injected(page)
    page.get_by_role("tab", name="History").click()
    expect(page.locator(".history")).to_contain_text(f"{IMAGE}.md")
    assert_nothing_injected(page)


def test_everything_of_a_chat_is_text(server: LiveServer, page: Page):
    server.serve("it", EVERYWHERE)
    opened(page, f"{server.url}/#/it/chat")
    message = page.get_by_label("Message", exact=True)
    message.fill(IMAGE)
    message.press("Enter")
    expect(page.locator(".turns .assistant .facts")).to_contain_text("200")
    expect(page.locator(".turns .assistant .said code").first).to_have_text(IMAGE)
    expect(page.locator(".turns .user")).to_contain_text(IMAGE)
    assert_nothing_injected(page)


def test_an_address_with_html_is_text(server: LiveServer, page: Page):
    server.serve("it", ECHO, answer="")
    opened(page, f"{server.url}/#/%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E/%3Cb%3E")
    expect(page.locator("h1")).to_have_text(IMAGE)
    assert_nothing_injected(page)
