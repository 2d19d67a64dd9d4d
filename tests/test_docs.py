"""What README and docs say is true."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import click
import pytest
from pydantic.fields import FieldInfo

import hayhooks
from hayhooks import create_app
from hayhooks.cli import main
from hayhooks.endpoints import BUILTIN
from hayhooks.observability.metrics import FAMILIES
from hayhooks.settings import Settings
from tests.live_server import serving

ROOT = Path(hayhooks.__file__).parent.parent
DOCS = ROOT / "docs"
WRAPPERS = DOCS / "wrappers.md"
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md")), *sorted((ROOT / "examples").rglob("README.md"))]


DEPLOYMENT = sorted(path for path in (ROOT / "examples/deployment").iterdir() if path.suffix != ".md")


def blocks(language: str, page: Path = ROOT / "README.md") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def shell(command: str, url: str) -> str:
    """What *command*, as it is shown, prints where the server is at *url*."""
    command = command.replace("http://127.0.0.1:1416", url)
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout


def test_settings_table_equals_the_settings():
    page = (DOCS / "settings.md").read_text()
    rows = re.findall(r"^\| `HAYHOOKS_\w+` \| .* \|$", page, re.MULTILINE)

    assert rows == [setting_row(name, field) for name, field in Settings.model_fields.items()]


def setting_row(name: str, field: FieldInfo) -> str:
    default = "" if field.default is None else field.default
    shown = json.dumps(default) if isinstance(default, list | bool) else str(default)
    return f"| `HAYHOOKS_{name.upper()}` | {shown and f'`{shown}`'} | {field.description} |"


def test_the_example_of_an_environment_file_holds_every_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lines = (ROOT / ".env.example").read_text().splitlines()
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("\n".join(line.removeprefix("# ") for line in lines[1:]))

    assert len(lines) == 1 + len(Settings.model_fields)
    assert Settings() == Settings(_env_file=None)


def test_the_table_of_metrics_is_what_is_told():
    page = (ROOT / "docs/observability.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (counter|gauge|histogram) \| (.*?) ?\| (.*?) \|$", page, re.MULTILINE)

    assert rows == [(name, family.type, ", ".join(family.labels), family.help) for name, family in FAMILIES.items()]


def test_every_setting_that_a_page_names_exists():
    known = (
        {name.upper() for name in Settings.model_fields}
        | {"LOG_LEVEL", "ADDITIONAL_PYTHONPATH", "ENV_FILE"}
        | {"DURABLE_MODE"}
    )
    found = {page: set(re.findall(r"HAYHOOKS_([A-Z_]+[A-Z])", page.read_text())) for page in [*PAGES, *DEPLOYMENT]}
    assert any(found.values())
    for page, names in found.items():
        assert names <= known, page


def commands(group: click.Group = main, path: str = "") -> dict[str, click.Command]:
    """Every command that does something, by its name with that of its group in front: ``pipeline list``."""
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        inner = isinstance(command, click.Group)
        found |= commands(command, f"{path}{name} ") if inner else {path + name: command}  # type: ignore[arg-type]
    return found


def test_every_command_and_option_that_a_page_names_exists():
    names = "|".join(sorted(commands(), key=len, reverse=True))
    for page in [*PAGES, *DEPLOYMENT]:
        for command, rest in re.findall(rf"hayhooks ({names})(?![\w-])([^`|\n]*)", page.read_text()):
            options = {option for parameter in commands()[command].params for option in parameter.opts}
            assert set(re.findall(r"--[a-z-]+", rest)) <= options, f"{page}: hayhooks {command} {rest}"
    table = (DOCS / "commands.md").read_text()
    listed = re.findall(r"^\| `hayhooks ((?:pipeline |mcp |executions )?[\w-]+)", table, re.MULTILINE)
    assert set(commands()) == set(listed) - {"--version"}


def test_every_option_of_a_command_is_shown():
    pages = (DOCS / "commands.md").read_text()
    for name, command in commands().items():
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert max(parameter.opts, key=len) in pages, f"{name} {parameter.opts}"


def test_every_script_is_listed():
    scripts = {path.name for path in (ROOT / "scripts").iterdir() if path.is_file() and "." not in path.name}

    assert set(re.findall(r"^\| `scripts/([\w-]+)`", (DOCS / "CONTRIBUTING.md").read_text(), re.MULTILINE)) == scripts
    assert {"demo", "test", "check"} <= set(re.findall(r"scripts/(\w+)", README)) <= scripts


def test_every_script_ends_at_its_first_error_however_it_is_started():
    for script in [ROOT / ".ci/run", *(path for path in (ROOT / "scripts").iterdir() if not path.suffix)]:
        if script.is_file():
            assert "\nset -e\n" in script.read_text(), script  # "sh scripts/test" does not read the first line


def test_ci_fails_when_the_checks_fail(tmp_path: Path):
    for path, text in {"scripts/check": "exit 3", "scripts/test": "echo tested"}.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / path).chmod(0o755)
    (tmp_path / ".ci").mkdir()
    for tool in ("chromium", "curl", "nginx", "rsync"):
        (tmp_path / tool).symlink_to("/bin/true")
    shutil.copy(ROOT / ".ci/run", tmp_path / ".ci/run")
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"

    done = subprocess.run(
        ["/bin/sh", tmp_path / ".ci/run"], env={"PATH": path}, capture_output=True, text=True, check=False, timeout=60
    )

    assert (done.returncode, done.stdout) == (3, "")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_exist(page: Path):
    for target, heading in re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", page.read_text()):
        file = page.parent / target if target else page
        assert file.exists(), target
        assert not heading or heading in headings(file), f"{target}#{heading}"


def test_pictures_exist_and_each_picture_is_shown():
    shown = {
        (page.parent / target).resolve()
        for page in PAGES
        for target in re.findall(r'(?:src|srcset)="([^"]+)"', page.read_text())
    }
    assert shown == {*(DOCS / "images").iterdir()}


def headings(page: Path) -> set[str]:
    """The anchors of a page."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


def test_every_page_is_in_the_readme():
    assert {f"docs/{page.name}" for page in DOCS.glob("*.md")} <= set(re.findall(r"\]\(([^)#]+)", README))


def test_architecture_names_every_module_once():
    named = re.findall(r"\*\*`([\w/]+\.py)`\*\*", (DOCS / "architecture.md").read_text())
    modules = [path.relative_to(ROOT / "hayhooks") for path in (ROOT / "hayhooks").rglob("*.py")]

    assert sorted(named) == sorted(str(path) for path in modules if "templates" not in path.parts and is_subject(path))


def is_subject(path: Path) -> bool:
    """Whether a module is more than a package's docstring."""
    return path.name != "__init__.py" or path.parent.name in ("", "cli", "endpoints", "kernel")


def test_glossary_has_every_public_class():
    rows = re.findall(r"^\| (`.*?) \|", (DOCS / "glossary.md").read_text().split("\n## Classes\n")[1], re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    public = {
        node.name
        for package in ("kernel", "http", "server", "openai")
        for path in (ROOT / "hayhooks" / package).glob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    }

    assert named == public


def test_the_first_wrapper_answers_as_shown(server):
    wrapper = next(block for block in blocks("python") if "PromptBuilder" in block)
    server.serve("shout", wrapper)
    command = next(block for block in blocks("sh") if "/shout/run" in block)

    assert shell(command, server.url) == next(block for block in blocks("json") if "HELLO" in block).strip()
    refused = server.client.post("/shout/run", json={"times": "many"})
    assert refused.status_code == 422
    assert [error["loc"] for error in refused.json()["detail"]] == [["body", "text"], ["body", "times"]]


def test_the_chat_answers_to_curl_and_to_the_client(server):
    server.serve("talk", next(block for block in blocks("python", WRAPPERS) if "MockChatGenerator" in block))

    streamed = shell(next(block for block in blocks("sh", WRAPPERS) if '"model": "talk"' in block), server.url)
    client = next(block for block in blocks("python", WRAPPERS) if "OpenAI(" in block)
    program = [sys.executable, "-c", client.replace("http://127.0.0.1:1416", server.url)]
    answer = subprocess.run(program, capture_output=True, text=True, check=True)

    assert '"content":"morning!"' in streamed
    assert streamed.endswith("data: [DONE]\n\n")
    assert answer.stdout == "You said: Good morning!\n"


def test_an_agent_answers_to_curl_and_to_the_client(server):
    server.serve("agent", next(block for block in blocks("python", WRAPPERS) if "MockChatGenerator" in block))
    page = DOCS / "a2a.md"
    for command in blocks("sh", page):
        assert "You said: Hello!" in shell(command, server.url)
    client = next(block for block in blocks("python", page) if "create_client" in block)
    program = [sys.executable, "-c", client.replace("http://127.0.0.1:1416", server.url)]
    assert "TASK_STATE_COMPLETED" in subprocess.run(program, capture_output=True, text=True, check=True).stdout


def test_an_agent_answers_to_the_client_with_a_key(root: Path):
    client = next(block for block in blocks("python", DOCS / "a2a.md") if "ClientConfig" in block)
    with serving(root, api_keys=["the-key"]) as server:
        server.write("agent", next(block for block in blocks("python", WRAPPERS) if "MockChatGenerator" in block))
        server.eventually(lambda: "agent" in server.app.switch.live.snapshot.deployments)
        program = [sys.executable, "-c", client.replace("http://127.0.0.1:1416", server.url)]
        assert "TASK_STATE_COMPLETED" in subprocess.run(program, capture_output=True, text=True, check=True).stdout


def test_the_wrapper_with_sources_sends_them_before_the_answer(server):
    server.serve("sources", next(block for block in blocks("python", WRAPPERS) if "source_events(outputs" in block))
    client = next(block for block in blocks("python", WRAPPERS) if "OpenAI(" in block).partition("print")[0]
    asked = next(block for block in blocks("python", DOCS / "http.md") if "model_extra" in block)
    program = f"{client.replace('http://127.0.0.1:1416', server.url)}\n{asked}\nprint(sources[0]['source']['name'])"

    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    question = {"stream": True, "messages": [{"role": "user", "content": "Breakfast?"}]}
    streamed = server.client.post("/sources/chat", json=question).text

    assert told == "house.md\n"
    assert 0 < streamed.index("house.md") < streamed.index("Breakfast?")


def test_the_conversation_with_sources_answers(server):
    page = DOCS / "streaming.md"
    server.serve("house", next(block for block in blocks("python", page) if "InMemoryBM25Retriever" in block))

    answer = json.loads(shell(next(block for block in blocks("sh", page) if "/house/chat" in block), server.url))

    assert answer["choices"][0]["message"]["content"] == "And the pool?\n\nFrom 1 document."
    assert [event["type"] for event in answer["events"]] == ["status", "source"]
    assert answer["events"][1]["data"]["source"]["name"] == "Pool"


def test_the_component_that_thinks_streams(server):
    server.serve("thinks", next(block for block in blocks("python", DOCS / "streaming.md") if "Thinker" in block))

    question = {"messages": [{"role": "user", "content": "hello"}]}
    answer = server.client.post("/thinks/chat", json=question).json()

    message = answer["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("HELLO", "A greeting.")
    assert answer["events"][0]["data"]["description"] == "Thinking: A greeting."


def test_the_methods_that_begin_and_count_by_themselves_answer(server):
    methods = [block for block in blocks("python", DOCS / "streaming.md") if block.startswith("async def")]
    begins, counts = (block.replace("\n", "\n    ") for block in methods)
    imports = "from hayhooks.open_webui import create_status_event\n"
    head = "class PipelineWrapper(BasePipelineWrapper):\n    def setup(self): ...\n\n    "
    talk = next(block for block in blocks("python", WRAPPERS) if "MockChatGenerator" in block)
    begins = begins.replace("{...}", '{"prompt": {"text": "x"}}')
    setup = talk[: talk.index("    async def")]
    server.serve("begins", f"{imports}{setup}    {begins}")
    server.serve("counts", f"from hayhooks import BasePipelineWrapper\n\n\n{head}{counts}")
    question = {"messages": [{"role": "user", "content": "x"}]}

    begun, counted = (server.client.post(f"/{name}/chat", json=question).json() for name in ("begins", "counts"))

    assert begun["choices"][0]["message"]["content"] == "You said: x"
    assert [event["type"] for event in begun["events"]] == ["status"]
    assert counted["choices"][0]["message"]["content"] == "Hello!"
    assert counted["usage"]["total_tokens"] == 10


def test_the_tool_of_mcp_is_listed_and_called(server):
    page = DOCS / "mcp.md"
    server.serve("add", next(block for block in blocks("python", page) if "class PipelineWrapper" in block))
    client = next(block for block in blocks("python", page) if "call_tool" in block)
    program = [sys.executable, "-c", client.replace("http://127.0.0.1:1416", server.url)]

    told = subprocess.run(program, capture_output=True, text=True, check=True).stdout
    listed = shell(next(block for block in blocks("sh", page) if "tools/list" in block), server.url)

    assert "'add'" in told
    assert told.endswith("\n{'total': 3}\n")
    assert "add" in [tool["name"] for tool in json.loads(listed)["result"]["tools"]]


def test_a_result_is_converted_to_its_annotation(server):
    server.serve("finds", next(block for block in blocks("python", WRAPPERS) if "list[Passage]" in block))

    answer = server.client.post("/finds/run", json={"question": "When?"})
    document = server.client.get("/openapi.json").json()

    assert answer.json() == {"result": [{"text": "Breakfast is at eight.", "score": 0.5}]}
    assert "finds.Passage" in document["components"]["schemas"]


def test_the_wrapper_of_a_handler_answers(server):
    page = DOCS / "coming_from.md"
    server.serve("shouts", next(block for block in blocks("python", page) if "class PipelineWrapper" in block))

    answers = [
        server.client.post("/shouts/run", json=body)
        for body in ({"text": "hi", "times": 2}, {"text": ""}, {"text": "hi", "times": 0})
    ]

    assert [answer.status_code for answer in answers] == [200, 400, 422]
    assert answers[0].json() == {"result": "HI!!"}


@pytest.mark.parametrize(
    ("part", "question", "text"),
    [
        ("Explain {{ topic }}", "", "Explain tides in one sentence."),
        ("def multiply", "6 * 7?", "That makes 42."),
        ("the next piece", "Good morning!", "Good morning! "),
    ],
)
def test_the_wrapper_that_takes_the_place_of_another_frameworks_answers(server, part: str, question: str, text: str):
    page = DOCS / "coming_from.md"
    server.serve("here", next(block for block in blocks("python", page) if part in block and "setup" in block))

    if question:
        body = {"model": "here", "messages": [{"role": "user", "content": question}]}
        message = server.client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]
        assert message["content"] == text
    else:
        assert server.client.post("/here/run", json={"topic": "tides"}).json() == {"result": text}


def test_the_wrapper_that_sends_events_sends_them(server):
    server.serve("steps", next(block for block in blocks("python", WRAPPERS) if "SSEEvent" in block))

    events = server.client.post("/steps/run", json={"steps": 1}).text
    assert events == 'event: progress\nid: 0\nretry: 2000\ndata: {"step":0}\n\nevent: done\ndata: \n\n'


def test_the_pipeline_in_yaml_answers(server):
    (server.root / "repeat.yml").write_text(blocks("yaml", DOCS / "yaml.md")[0])
    server.eventually(lambda: "repeat" in server.status()["pipelines"])

    answer = shell(next(block for block in blocks("sh", DOCS / "yaml.md") if "/repeat/run" in block), server.url)

    assert json.loads(answer)["result"]["llm"]["replies"][0]["content"] == [{"text": "When is breakfast?"}]


def test_the_upload_is_taken(server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.md").write_text("one")
    (tmp_path / "more.pdf").write_text("three")
    server.serve("index", next(block for block in blocks("python", WRAPPERS) if "UploadFile" in block))

    assert json.loads(shell(next(block for block in blocks("sh", WRAPPERS) if "/index/run" in block), server.url)) == {
        "result": {"notes.md": 3, "more.pdf": 5}
    }


def test_the_first_wrapper_passes_its_test(tmp_path: Path):
    folder = tmp_path / "pipelines/shout"
    folder.mkdir(parents=True)
    wrapper = next(block for block in blocks("python") if "PromptBuilder" in block)
    (folder / "pipeline_wrapper.py").write_text(wrapper)
    (folder / "test_shout.py").write_text(blocks("python", DOCS / "testing.md")[0])
    command = [sys.executable, "-m", "pytest", "-q", "pipelines/shout"]

    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert "2 passed" in result.stdout, result.stdout + result.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_python_blocks_are_python(page: Path):
    for block in blocks("python", page):
        ast.parse(block)


@pytest.mark.parametrize("part", ["app = create_app()", "hayhooks = create_app()"])
def test_the_applications_shown_are_served_by_uvicorn(tmp_path: Path, part: str):
    page = ROOT / "docs/application.md"
    (tmp_path / "module.py").write_text(next(block for block in blocks("python", page) if part in block))
    prefix = "/ai" if "Mount" in (tmp_path / "module.py").read_text() else ""
    (tmp_path / "pipelines/echo").mkdir(parents=True)
    wrapper = next(block for block in blocks("python") if "PromptBuilder" in block)
    (tmp_path / "pipelines/echo/pipeline_wrapper.py").write_text(wrapper)
    script = (
        "import httpx, json, module; from starlette.testclient import TestClient\n"
        "with TestClient(module.app) as client:\n"
        f"    print(client.post('{prefix}/echo/run', json={{'text': 'x'}}).text)\n"
        f"    print(client.get('{prefix}/ping').text)\n"
    )

    result = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert '{"result":"X!"}' in result.stdout, result.stderr
    assert ('{"answer":"pong"}' in result.stdout) is (prefix == "")


def test_plug_in_of_the_guide_serves(root: Path):
    plug_in = ModuleType("listing")
    exec(blocks("python", DOCS / "CONTRIBUTING.md")[0], vars(plug_in))
    app = create_app(Settings(pipelines_dir=root, _env_file=None), plug_ins=[*BUILTIN, plug_in])

    with serving(root, app) as server:
        server.serve("echo")
        listed = server.client.get("/echo/files.json").json()
        document = server.client.get("/openapi.json").json()

    assert listed["files"] == ["pipeline_wrapper.py"]
    assert document["paths"]["/echo/files.json"]["get"]["operationId"] == "list_files_echo"


def test_every_figure_told_is_one_of_the_benchmark_that_is_kept():
    kept = json.loads((ROOT / "docs/performance.json").read_text())["figures"]
    rows = {f"`{figure['row']}`" for figure in kept}
    known = {number for figure in kept for number in _numbers_of(figure)}
    page = re.findall(r"^\| (`[a-z-]+`) \| (.*) \|$", (ROOT / "docs/performance.md").read_text(), re.MULTILINE)
    assert {row for row, _ in page} == rows
    assert len(page) > 20

    for _, cells in page:
        for cell in cells.split(" | "):
            if number := re.match(r"[\d,.]+(?= |$)", cell):
                assert number[0] in known, cells


def _numbers_of(figure: dict[str, object]) -> list[str]:
    more = figure["more"]
    assert isinstance(more, dict)
    numbers = [figure.get(key) for key in ("value", "of_limit", "cpu_of_limit", "cpu_us_each")]
    return [_rounded(number) for number in (*numbers, *more.values()) if isinstance(number, float)]


def _rounded(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.1f}" if number >= 10 else f"{number:.2f}"
