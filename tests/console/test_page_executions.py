"""Executions in the console: a list, and each with its timeline, live; a person answers, cancels, retries, deletes."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.console.pages import FAINT, UNNAMED, opened
from tests.live_server import LiveServer, eventually, serving

IMAGE = "<img src=x onerror=alert(1)>"

JOBS = """
import time
from pathlib import Path

from haystack import Pipeline
from pydantic import BaseModel, Field

from hayhooks import BasePipelineWrapper, DurableContext


class Job(BaseModel):
    do: str
    gate: str = ""


class Decision(BaseModel):
    approved: bool = Field(description=IMAGE)
    amount: float = Field(default=1, le=100)


class PipelineWrapper(BasePipelineWrapper):
    durable_resume_model = Decision
    durable_concurrency = 4

    def setup(self):
        self.pipeline = Pipeline()

    def run_durable(self, context: DurableContext, request: Job) -> dict:
        if request.do == "fail" and context.attempt == 1:
            raise ValueError(IMAGE)
        answer = context.resume_input
        if request.do == "ask" and answer is None:
            context.suspend_sync({"kind": "approval", "message": f"Pay {IMAGE}?", "expected_input_schema": {"$ref": 1}})
        if request.do == "work":
            context.step_sync(f"read {IMAGE}", lambda: 1)
            context.report_progress_sync(f"read {IMAGE}", metadata={IMAGE: 1})
            context.stream_chunk_sync(f"chunk {IMAGE}")
            while not Path(request.gate).exists():
                context.check_cancelled_sync()
                time.sleep(0.02)
        return {"answer": answer, IMAGE: IMAGE}
"""

# An answer that is no object of known fields.
FREE = JOBS.replace("    durable_resume_model = Decision\n", "")


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    settings: dict[str, Any] = {"state_dir": str(tmp_path_factory.mktemp("state")), "durable_poll_ms": 50}
    with serving(tmp_path_factory.mktemp("pipelines"), show_tracebacks=True, **settings) as server:
        server.serve("jobs", JOBS, image=IMAGE)
        server.serve("free", FREE, image=IMAGE)
        yield server


def order(server: LiveServer, do: str, status: str, *, name: str = "jobs", gate: Path | str = "") -> str:
    """Order an execution, and return its address in the console once it is in *status*."""
    body = server.client.post(f"/{name}/run-durable", json={"do": do, "gate": str(gate)}).raise_for_status().json()
    path = body["links"]["self"]
    eventually(lambda: server.client.get(path).json()["status"] == status, f"it to be {status}", 60)
    return f"{server.url}/#executions/{name}/{body['execution_id']}"


def assert_nothing_injected(page: Page) -> None:
    assert page.locator("main :is(img, script, iframe), [onclick], [onerror]").count() == 0


def test_the_list_is_live_newest_first_and_filtered(jobs: LiveServer, page: Page):
    order(jobs, "ask", "waiting")
    opened(page, jobs.url)
    page.get_by_role("link", name="Executions").click()
    rows = page.locator(".executions > li")
    expect(rows.first).to_contain_text("waiting")
    order(jobs, "fail", "failed", name="free")
    expect(rows.first).to_contain_text(re.compile("failed.*free", re.DOTALL))

    page.get_by_label("State").select_option("waiting")
    expect(rows.filter(has_text="failed")).to_have_count(0)
    rows.first.get_by_role("link", name="jobs").click()
    expect(page.locator("h1")).to_have_text("jobs")


def test_pages_of_the_list(jobs: LiveServer, page: Page):
    for _ in range(51):
        jobs.client.post("/free/run-durable?delay=600", json={"do": "answer"}).raise_for_status()
    opened(page, f"{jobs.url}/#executions")
    page.get_by_label("State").select_option("queued")
    rows = page.locator(".executions > li")
    expect(rows).to_have_count(50)
    page.get_by_role("button", name="Older").click()
    expect(rows).to_have_count(1)
    page.get_by_role("button", name="Newer").click()
    expect(rows).to_have_count(50)


def test_it_is_shown_live_while_it_runs(jobs: LiveServer, page: Page, tmp_path: Path):
    place = order(jobs, "work", "running", gate=tmp_path / "gate")
    opened(page, place)
    state = page.locator("h1 + .state")
    expect(state).to_have_text("running")
    expect(page.locator(".moments")).to_contain_text(f"read {IMAGE}")
    expect(page.locator(".moments")).to_contain_text("attempt 1 begins")
    expect(page.locator(".steps")).to_have_text(f"read {IMAGE}")
    expect(page.get_by_label("Chunks")).to_have_text(f"chunk {IMAGE}")

    (tmp_path / "gate").touch()
    expect(state).to_have_text("completed")
    expect(page.get_by_label("Result")).to_contain_text(IMAGE)
    expect(page.locator(".moments")).to_contain_text("attempt 1: completed")
    assert_nothing_injected(page)


def test_a_person_answers_by_the_form_of_the_schema(jobs: LiveServer, page: Page):
    opened(page, order(jobs, "ask", "waiting"))
    question = page.get_by_role("form", name="What it asks")
    expect(question).to_contain_text(f"Pay {IMAGE}?")
    expect(question.get_by_label("approved*")).to_have_value("")  # nobody approves by mistake
    question.get_by_label("approved*").select_option("false")
    question.get_by_label("amount").fill("200")
    question.get_by_label("amount").evaluate("each => each.max = ''")  # the server checks it too
    question.get_by_role("button", name="Answer").click()
    expect(page.locator("[data-part=refusal]")).to_contain_text("amount: Input should be less than or equal to 100")

    question.get_by_label("amount").fill("20")
    question.get_by_label("amount").press("Enter")
    expect(page.get_by_label("Result")).to_contain_text('"approved": false')
    expect(page.get_by_label("Result")).to_contain_text('"amount": 20')
    expect(question).to_be_hidden()
    assert_nothing_injected(page)


def test_an_answer_without_a_schema_is_json(jobs: LiveServer, page: Page):
    opened(page, order(jobs, "ask", "waiting", name="free"))
    page.get_by_label("Answer, as JSON").fill('["yes", 1]')
    page.get_by_role("button", name="Answer").click()
    expect(page.get_by_label("Result")).to_contain_text('"yes"')


def test_it_is_canceled_run_again_and_deleted(jobs: LiveServer, page: Page, tmp_path: Path):
    opened(page, order(jobs, "work", "running", gate=tmp_path / "gate"))
    state = page.locator("h1 + .state")
    page.get_by_role("button", name="Cancel").click()
    expect(state).to_have_text("canceled")
    (tmp_path / "gate").touch()
    page.get_by_role("button", name="Run again").click()
    expect(state).to_have_text("completed")
    page.get_by_role("button", name="Delete").click()
    expect(page.locator("h1")).to_have_text("Executions")
    page.go_back()
    expect(page.get_by_text("It cannot be read: Execution not found")).to_be_visible()
    page.goto("about:blank")


def test_an_error_is_text(jobs: LiveServer, page: Page):
    opened(page, order(jobs, "fail", "failed"))
    expect(page.get_by_label("Error")).to_have_text(f"ValueError: {IMAGE}")
    assert_nothing_injected(page)
    page.get_by_role("button", name="Run again").click()
    expect(page.locator("h1 + .state")).to_have_text("completed")


def test_it_is_ordered_in_the_tab_run(jobs: LiveServer, page: Page):
    opened(page, f"{jobs.url}/#/jobs/run")
    page.get_by_label("do*").fill("answer")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.locator(".answer .result")).to_contain_text('"execution_id"')
    page.get_by_role("link", name="Follow it").click()
    expect(page.locator("h1 + .state")).to_have_text("completed")


def test_a_server_without_executions_shows_and_asks_nothing(own_server: LiveServer, page: Page):
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for place in ("#executions", "#executions/it/0123"):
        opened(page, f"{own_server.url}/{place}")
        expect(page.get_by_text("Nothing has been ordered that outlives its request.")).to_be_visible()
        expect(page.get_by_role("link", name="Executions", exact=True)).to_be_hidden()
    assert not [url for url in asked if url.endswith(("/executions", "/it/executions/0123", "/stream"))]
    assert own_server.status()["executions"] is False


@pytest.mark.parametrize("width", [360, 2560])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_is_named_and_legible(jobs: LiveServer, browser: Browser, scheme: str, width: int):
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]  # one of its literals
    for place, shown in {
        f"{jobs.url}/#executions": ".executions > li",
        order(jobs, "ask", "waiting"): ".question select",
        order(jobs, "fail", "failed"): ".result.reason",
    }.items():
        opened(page, place)
        page.locator(shown).first.wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, place
        assert page.evaluate(UNNAMED) == [], place
        assert page.evaluate(FAINT) == [], place
    page.close()
