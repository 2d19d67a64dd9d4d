"""``/docs`` and ``/redoc`` in a real browser, which has no internet."""

import asyncio
import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Mount, Route

from tests.live_server import LiveServer, also_at, serving
from tests.network import Stranger, stranger
from tests.openapi.varied import TYPED, UPLOADS
from tests.wrappers import source

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")

OPTIONS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--enable-logging=stderr"),
]


@pytest.fixture(scope="module")
def browser() -> str:
    """A Chromium; without one these tests are skipped on your machine, and fail in CI (which sets ``CI``)."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None and os.environ.get("CI"):
        pytest.fail("no Chromium: .ci/run installs one")
    return found or pytest.skip("no Chromium on this machine: apt-get install chromium")


def look(browser: str, url: str, profile: Path, proxy: Stranger) -> tuple[str, str]:
    """The page at *url* as it is after its scripts have run, and what the browser said."""
    done = subprocess.run(
        [
            browser,
            *OPTIONS,
            f"--user-data-dir={profile}",
            f"--proxy-server=http://127.0.0.1:{proxy.port}",
            "--proxy-bypass-list=127.0.0.1",
            "--virtual-time-budget=20000",
            "--dump-dom",
            url,
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    console = "\n".join(line for line in done.stderr.splitlines() if ":CONSOLE:" in line)
    return re.sub(r"<script.*?</script>|<style.*?</style>", "", done.stdout, flags=re.DOTALL), console


@pytest.mark.parametrize("prefix", ["", "/below/it"], ids=["at the root", "mounted"])
@pytest.mark.parametrize(("page", "more"), [("docs", "Weigh the items."), ("redoc", "Counts items.")])
def test_a_browser_shows_the_operations_and_asks_nobody_else(
    browser: str, server: LiveServer, tmp_path: Path, page: str, more: str, prefix: str
):
    server.serve("typed", TYPED)
    server.serve("uploads", UPLOADS)
    app = Starlette(routes=[Mount(prefix or "/", server.app)])

    with stranger(answer=b"") as proxy, also_at(app) as url:
        shown, console = look(browser, f"{url}{prefix}/{page}", tmp_path / "profile", proxy)

    text = re.sub(r"<[^>]*>|\u200b", "", shown)
    for expected in ("/typed/run", "/uploads/run", "/typed/schema", more):
        assert expected in text, (console, text[:2_000])
    asked = [heard.decode("latin-1").partition("\r\n")[0] for heard in proxy.heard if heard]  # not: spare connections
    assert not [line for line in asked if not BROWSERS_OWN.search(line)]
    assert not re.search("Uncaught|violates", console)  # nor tries to
    assert "Authorize" not in text


DRIVE = """
<!doctype html><iframe id="frame" src="PAGE" width="1400" height="1000"></iframe><pre id="told"></pre>
<script type="module">
async function until(find) {
  for (;;) {
    const found = find(document.getElementById("frame").contentDocument);
    if (found) return found;
    await fetch("/pause"); // the browser's clock is a virtual one: a timer would not wait for what takes time
  }
}
STEPS
</script>
"""

# What a reader does who is asked for a key.
TYPE_KEYS = """
async function type(key) {
  const form = await until((page) => page.querySelector("form"));
  told.textContent += form.textContent + "\\n";
  form.querySelector("input").value = key;
  form.querySelector("button").click();
  await until((page) => !form.isConnected);
}
await type("wrong");
await type("secret");
await until((page) => page.body.textContent.includes("typed"));
told.textContent += "shown";
"""

# What a reader of /docs clicks to call the first operation.
TRY_IT_OUT = """
(await until((page) => page.querySelector("[id$=run_typed] button"))).click();
(await until((page) => page.querySelector(".try-out button"))).click();
(await until((page) => page.querySelector("button.execute"))).click();
told.textContent += await until((page) => page.querySelector(".responses-table.live-responses-table")?.innerText);
"""


# What a reader of /docs sees who opens an operation, and then the example of each error.
MEASURE = """
for (const operation of OPERATIONS) {
  const block = await until((page) => page.querySelector(`[id$=${operation}]`));
  block.querySelector("button").click();
  await until(() => block.querySelectorAll("details.error .highlight-code").length > 9);
  told.textContent += `${operation} ${block.offsetHeight}\\n`;
  for (const row of block.querySelectorAll("tr.response:has(details)")) {
    row.querySelector("summary").click();
    const example = row.querySelector(".highlight-code").innerText;
    told.textContent += `${row.dataset.code} ${example.replace(/\\s+/g, " ")}\\n`;
  }
  block.querySelector("button").click();
}
"""


def test_an_operation_fits_the_screen_and_each_error_shows_an_example_of_its_own(
    browser: str, server: LiveServer, tmp_path: Path
):
    server.serve("typed", TYPED)
    server.serve("talks", source("openai_apis"))
    operations = ["run_typed", "chat_talks", "create_chat_completion"]

    shown, console = driven(browser, server, "docs", MEASURE.replace("OPERATIONS", str(operations)), tmp_path)

    told = html.unescape(shown)
    assert len(re.findall("_(?:typed|talks|completion) [0-9]+$", told, re.MULTILINE)) == 3, (console, told[-2000:])
    assert max(map(int, re.findall("_(?:typed|talks|completion) ([0-9]+)$", told, re.MULTILINE))) < 1500
    assert 'default { "detail": "the text of the exception" }' in told
    assert """404 { "detail": "there is no pipeline 'NAME'" }""" in told
    assert told.count('"code": "model_not_found"') == 2


# What a reader does who fills in some fields of a form, and leaves the others as they are.
FILL_IN = """
(await until((page) => page.querySelector("[id$=run_it] button"))).click();
(await until((page) => page.querySelector(".try-out button"))).click();
const execute = await until((page) => page.querySelector("button.execute"));
const { File, DataTransfer, Event, FocusEvent, HTMLInputElement, HTMLTextAreaElement } = frame.contentWindow;
async function fill(name, value) {
  const row = () => frame.contentDocument.querySelector(`[data-property-name=${name}]`);
  const inputs = () => [...row().querySelectorAll("input:not([type=checkbox]), textarea")];
  const count = inputs().length;
  row().querySelector(".json-schema-form-item-add").click();
  const input = await until(() => inputs()[count]);
  if (input.type === "file") {
    const transfer = new DataTransfer();
    transfer.items.add(new File([value], value));
    input.files = transfer.files;
  } else {
    const prototype = input.tagName === "TEXTAREA" ? HTMLTextAreaElement.prototype : HTMLInputElement.prototype;
    Object.getOwnPropertyDescriptor(prototype, "value").set.call(input, value);
    input.dispatchEvent(new Event("input", { bubbles: true }));
  }
  input.dispatchEvent(new Event("change", { bubbles: true }));
  input.dispatchEvent(new FocusEvent("focusout", { bubbles: true })); // else Swagger waits for more letters
}
for (const [name, value] of [["files", "one"], ["files", "two"], ["tags", "a"], ["tags", "b, c"], ["pages", "7"],
                             ["points", '{"x": 1}'], ["points", '{"x": 2}']])
  await fill(name, value);
execute.click();
told.textContent += (await until((page) => page.querySelector(".live-responses-table .highlight-code"))).innerText;
"""

FORM = """
from starlette.datastructures import UploadFile
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_api(self, files: list[UploadFile], tags: list[str] = ["none"], pages: list[int] | None = None,
                points: list[dict] = [],
                left: list[str] = ["left"], others: list[UploadFile] = [], cover: UploadFile | None = None,
                options: dict | None = None, name: str | None = None, anything=None):
        told = [tags, pages, points, left, options, name or None, anything or None]
        return [[file.filename for file in files], *told, len(others), cover is None]
"""


def test_a_form_sends_lists_item_by_item_and_nothing_for_what_is_left_as_it_is(
    browser: str, server: LiveServer, tmp_path: Path
):
    server.serve("it", FORM)

    shown, console = driven(browser, server, "docs", FILL_IN, tmp_path)

    answer = re.search(r'\{\s*"result".*\}', shown, re.DOTALL)
    assert answer is not None, (console, shown[-3000:])
    expected = [["one", "two"], ["a", "b, c"], [7], [{"x": 1}, {"x": 2}], ["left"], None, None, None, 0, True]
    assert json.loads(answer[0]) == {"result": expected}


def driven(browser: str, server: LiveServer, page: str, steps: str, tmp_path: Path) -> tuple[str, str]:
    """What is shown, and what the browser said, after *steps* on *page*."""

    async def pause(request: Request) -> HTMLResponse:
        await asyncio.sleep(0.02)
        return HTMLResponse()

    drive = Route("/drive", lambda request: HTMLResponse(DRIVE.replace("PAGE", page).replace("STEPS", steps)))
    app = Starlette(routes=[drive, Route("/pause", pause), Mount("/", server.app)])
    with stranger(answer=b"") as proxy, also_at(app) as url:
        return look(browser, f"{url}/drive", tmp_path / "profile", proxy)


@pytest.mark.parametrize(("page", "run"), [("docs", TRY_IT_OUT), ("redoc", "")])
def test_with_keys_a_page_can_be_opened_and_asks_for_one(browser: str, root: Path, tmp_path: Path, page: str, run: str):
    with serving(root, api_keys=["secret"]) as server:
        server.client.headers["Authorization"] = "Bearer secret"
        server.serve("typed", TYPED)
        shown, console = driven(browser, server, page, TYPE_KEYS + run, tmp_path)

    assert "This server needs an API key." in shown, console
    assert "The API key is not valid." in shown
    assert "shown" in shown
    if run:
        assert "x-hayhooks-revision" in shown, shown[-3000:]
    assert "Uncaught" not in console


# What Chromium asks its maker for, whatever page it shows.
BROWSERS_OWN = re.compile(r"google\.com|googleapis\.com|gvt1\.com|gstatic\.com")


@pytest.mark.parametrize("page", ["docs", "redoc"])
def test_a_page_may_load_nothing_from_elsewhere(server: LiveServer, page: str):
    answer = server.client.get(f"/{page}")

    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert not re.search(r"https?:|\*|unsafe-eval|script-src[^;]*unsafe-inline", policy)
    assert not re.search(r"https?://", answer.text)
    for path in re.findall(r'(?:src|href)="(?!data:)([^"]+)"', answer.text):
        assert not path.startswith("/"), "a link that does not work below a prefix"
        assert server.client.get(f"/{path}").status_code == 200, path


def test_page_assets_are_cached_by_version(server: LiveServer):
    """What a page loads is kept by browsers under a name with its version."""
    page = server.client.get("/docs").text
    script = re.search(r'src="(docs/swagger_bundle\.js\?[^"]+)"', page)
    assert script is not None

    answer = server.client.get(f"/{script[1]}")

    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
    assert "immutable" in answer.headers["cache-control"]


@pytest.mark.parametrize(
    "path", ["/docs/nothing.js", "/docs/..%2f__init__.py", "/docs/scalar.js", "/redoc/__init__.py"]
)
def test_other_files_are_not_served(server: LiveServer, path: str):
    assert server.client.get(path).status_code == 404


def test_redoc_reports_nothing_to_its_maker(server: LiveServer):
    assert "disableTelemetry: true" in server.client.get("/redoc/start.js").text
