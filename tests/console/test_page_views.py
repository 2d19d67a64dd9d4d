"""The console's views beside Run and Chat, and what runs again on save."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.cli.processes import started
from tests.console.pages import opened
from tests.live_server import LiveServer, eventually, replace, serving
from tests.pipelines import ASK

ANSWERS = """
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self): pass

    def run_api(self, text: str = "you"):
        if text == "fail":
            raise ValueError("no such text")  # here
        return f"The old answer to {text}, with <b>words</b>."

    def run_chat_completion(self, model, messages, body):
        return f"The old answer to {messages[-1]['content']}."
"""
FILE = """
from starlette.responses import Response

from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self): pass

    def run_api(self):
        disposition = "attachment; filename=a.bin"
        return Response(b'one', media_type="application/octet-stream", headers={"Content-Disposition": disposition})
"""
LONG = """
import time

from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self): pass

    def run_chat_completion(self, model, messages, body):
        for number in range(120):
            time.sleep(0.01)
            yield f"* line {number}\\n"
"""
BROKEN = "import nothing_there_at_all\n" + ANSWERS


def test_a_run_is_repeated_on_save_and_the_difference_is_marked(server: LiveServer, page: Page):
    server.serve("answers", ANSWERS)
    opened(page, f"{server.url}/#/answers/run")
    again = page.get_by_role("checkbox", name="Run again on save")  # that of the chat is hidden
    again.check()
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.locator(".result")).to_contain_text("The old answer to you")
    first = server.state("answers")["revision"]

    server.write("answers", BROKEN)
    expect(page.get_by_role("tabpanel", name="Run").locator(".again .problem")).to_contain_text(
        f"so the answer is that of revision {first}: ModuleNotFoundError"
    )
    expect(page.locator(".result")).to_contain_text("The old answer to you")

    server.serve("answers", ANSWERS.replace("old answer to {text}", "new answer to {text}"))
    expect(page.locator(".result")).to_contain_text("The new answer to you")
    expect(page.locator(".comparison")).to_be_visible()
    before, now = page.locator(".comparison figure").all()
    expect(before.locator("figcaption")).to_have_text(f"Before: revision {first}")
    expect(before).to_contain_text("The old answer to you, with <b>words</b>.")
    expect(before.locator("del")).to_have_text("old")
    expect(now.locator("ins")).to_have_text("new")
    expect(page.get_by_role("tabpanel", name="Run").locator(".again .problem")).to_be_empty()

    server.serve("answers", ANSWERS.replace("old answer to {text}", "new answer to {text}") + "\n# as before")
    expect(page.get_by_text("The same answer as that of revision")).to_be_visible()

    again.uncheck()
    server.serve("answers", ANSWERS)
    expect(page.locator(".facts").first).to_contain_text(server.state("answers")["revision"])
    expect(page.locator(".result")).to_contain_text("The new answer to you")


def test_a_chat_is_asked_again_on_save(server: LiveServer, page: Page):
    server.serve("answers", ANSWERS)
    opened(page, f"{server.url}/#/answers/chat")
    page.get_by_role("checkbox", name="Run again on save").check()
    for number, question in enumerate(["one", "two"], 1):
        page.get_by_label("Message", exact=True).fill(question)
        page.get_by_role("button", name="Send", exact=True).click()
        expect(page.get_by_role("button", name="Send again")).to_have_count(number)

    server.serve("answers", ANSWERS.replace("old answer to {m", "new answer to {m"))

    expect(page.locator(".assistant .said").last).to_contain_text("The new answer to two.")
    expect(page.locator(".assistant .said").first).to_contain_text("The old answer to one.")
    expect(page.locator(".assistant")).to_have_count(2)
    expect(page.locator(".comparison")).to_be_visible()
    expect(page.locator(".comparison del")).to_have_text("old")
    expect(page.locator(".comparison ins")).to_have_text("new")


def test_files_and_errors_are_run_again_on_save(server: LiveServer, page: Page):
    server.serve("answers", FILE)
    opened(page, f"{server.url}/#/answers/run")
    page.get_by_role("checkbox", name="Run again on save").check()
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.get_by_role("link", name="Download a.bin (3 B)")).to_be_visible()

    server.serve("answers", FILE.replace("b'one'", "b'four'"))
    expect(page.get_by_role("link", name="Download a.bin (4 B)")).to_be_visible()
    server.serve("answers", FILE.replace("disposition =", "raise ValueError('none')\n        disposition ="))
    expect(page.locator(".answer .facts")).to_contain_text("500")
    server.serve("answers", FILE.replace("return", "return 'text' or"))
    expect(page.locator(".result")).to_have_text("text")


def test_a_chat_follows_its_answer_until_one_scrolls_up(server: LiveServer, page: Page):
    server.serve("long", LONG)
    opened(page, f"{server.url}/#/long/chat")
    page.get_by_label("Message", exact=True).fill("Hello")
    page.get_by_role("button", name="Send", exact=True).click()
    left = "document.documentElement.scrollHeight - innerHeight - scrollY"
    expect(page.locator(".assistant .said")).to_contain_text("line 60")
    eventually(lambda: page.evaluate(f"scrollY > 500 && {left} < 50"))

    page.mouse.wheel(0, -400)
    eventually(lambda: page.evaluate(left) > 200)
    expect(page.locator(".assistant .said")).to_contain_text("line 119")
    expect(page.get_by_role("button", name="Send again")).to_be_attached()
    assert page.evaluate(left) > 200


@pytest.fixture
def tracing(root: Path) -> Iterator[LiveServer]:
    with serving(root, traces=50) as server:
        yield server


def test_requests_come_as_they_are_made_and_open_as_waterfalls(tracing: LiveServer, page: Page):
    server = tracing
    server.serve("answers", ANSWERS)
    serve_ask(server)
    opened(page, f"{server.url}/#requests")
    expect(page.get_by_text("No such request is kept")).to_be_visible()
    server.run("answers")
    assert server.client.post("/answers/run", json={"text": "fail"}).status_code == 500
    server.run("ask", question="x")
    rows = page.locator(".requests > li")
    expect(rows).to_have_count(3)
    expect(rows.first).to_contain_text("POST /ask/run")

    rows.first.locator("summary").first.click()
    expect(rows.first.locator(".spans")).to_contain_text("prompt ChatPromptBuilder")
    rows.first.locator(".spans summary").last.click()
    expect(rows.first.locator(".sockets").last).to_be_visible()

    page.get_by_label("Status").select_option("error")
    expect(rows).to_have_count(1)
    rows.first.locator("summary").first.click()
    expect(rows.first.locator(".here")).to_contain_text('raise ValueError("no such text")  # here')
    page.get_by_label("Status").select_option("")
    page.get_by_label("Pipeline").select_option("ask")
    expect(rows).to_have_count(1)
    expect(rows.first).to_contain_text("POST /ask/run")

    page.goto(f"{server.url}/#/answers/requests")
    expect(rows).to_have_count(2)
    expect(page.locator(".requests .bad")).to_have_text("500")


def test_a_server_that_keeps_no_requests_says_how_to_keep_them(server: LiveServer, page: Page):
    opened(page, f"{server.url}/#requests")
    expect(page.get_by_text("start the server with HAYHOOKS_TRACES=200")).to_be_visible()


def test_numbers_are_shown_of_the_server_and_of_each_pipeline(server: LiveServer, page: Page):
    server.serve("answers", ANSWERS)
    for _ in range(5):
        server.run("answers")
    eventually(lambda: sum(filter(None, numbers(server)["requests"])) == 5)
    opened(page, f"{server.url}/#numbers")
    box = page.get_by_role("region", name="answers")
    expect(box).to_contain_text("5 requests, 0 errors")
    expect(box).to_contain_text("p95, estimated")
    expect(box).to_contain_text("≈ ")
    expect(page.get_by_role("img", name="Memory, all workers: at most")).to_be_visible()


def serve_ask(server: LiveServer) -> None:
    replace(
        server.root / "ask.yml",
        ASK.replace("{{ question }}", "{{ question.text.first.second if question.text else question }}"),
    )
    eventually(lambda: server.state("ask")["state"] == "serving")


def numbers(server: LiveServer) -> dict[str, list[int | None]]:
    found: dict[str, list[int | None]] = httpx.get(f"{server.url}/console/numbers").json()["pipelines"]["answers"]
    return found


def test_a_drawing_marks_what_took_longest_and_what_failed(tracing: LiveServer, page: Page):
    server = tracing
    serve_ask(server)
    opened(page, f"{server.url}/#/ask/drawing")
    expect(page.locator(".drawing [data-component=prompt]")).to_be_visible()
    server.run("ask", question="x")
    page.reload()
    expect(page.locator(".drawing .slowest")).to_have_count(1)
    expect(page.get_by_text("In the last request")).to_be_visible()

    server.client.post("/ask/run", json={"question": {"text": 1}})
    page.reload()
    expect(page.locator(".drawing .failing[data-component=prompt]")).to_have_count(1)
    expect(page.get_by_text("prompt failed: UndefinedError")).to_be_visible()


def test_the_schemas_of_the_operations_are_shown(server: LiveServer, page: Page):
    server.serve("answers", ANSWERS)
    opened(page, f"{server.url}/#/answers/schema")
    expect(page.get_by_label("Schema of /answers/run")).to_contain_text('"default": "you"')


def test_tools_and_cards_are_shown_as_agents_see_them(server: LiveServer, page: Page):
    server.serve("answers", ANSWERS)
    opened(page, f"{server.url}/#/answers/protocols")
    expect(page.get_by_text(f"{server.url}/mcp", exact=True)).to_be_visible()
    expect(page.get_by_label("Tool answers", exact=True)).to_contain_text('"default": "you"')
    expect(page.get_by_text(f"{server.url}/answers/", exact=True)).to_be_visible()
    expect(page.get_by_label("Agent card answers")).to_contain_text('"name": "answers"')
    server.write("answers", ANSWERS.replace("def setup", "skip_mcp, a2a = True, False\n\n    def setup"))
    expect(page.get_by_text("It is no tool: it has no run_api")).to_be_visible()
    expect(page.get_by_text("It is no agent: it has no chat, or a2a = False.")).to_be_visible()
    expect(page.get_by_label("Tool answers", exact=True)).to_have_count(0)


def test_without_the_extras_it_says_what_to_install(tmp_path: Path, page: Page):
    replace(tmp_path / "pipelines/answers/pipeline_wrapper.py", ANSWERS)
    for sdk in ("mcp", "a2a"):
        replace(tmp_path / f"none/{sdk}.py", f"raise ModuleNotFoundError('No module named {sdk}')")
    with started(tmp_path, "run", variables={"PYTHONPATH": str(tmp_path / "none")}) as server:
        opened(page, f"{server.url}/#/answers/protocols")
        expect(page.get_by_text('MCP needs an extra: pip install "hayhooks[mcp]"')).to_be_visible()
        expect(page.get_by_text('A2A needs an extra: pip install "hayhooks[a2a]"')).to_be_visible()
        page.goto("about:blank")


def test_a_canary_stands_beside_the_revision_that_serves(server: LiveServer, page: Page):
    wrapper = ANSWERS.replace("def setup", "canary = 0.5\n\n    def setup")
    server.serve("answers", wrapper)
    first = server.state("answers")["revision"]
    opened(page, server.url)
    server.write("answers", wrapper + "\n# another")
    canary = eventually(lambda: server.state("answers")["canary"])

    expect(page.locator(".numbers dd").first).to_have_text(f"{first} · canary {canary}")
    page.get_by_role("link", name="answers").click()
    expect(page.locator(".facts").first).to_contain_text(f"canary {canary}")
    server.client.post("/answers/run", json={}, headers={"X-Hayhooks-Revision": canary})
    told = f"The canary {canary} gets 50 % of the requests: 1 answers, 0 failed"
    expect(page.locator("[data-part=canary]")).to_contain_text(told)
    page.get_by_role("tab", name="History").click()
    expect(page.locator(".history .canary")).to_contain_text(canary)
    page.goto("about:blank")
