"""Loading on a live server: isolation, failures, repairs."""

import os
import sys
from pathlib import Path

import pytest

from tests.live_server import ECHO, LiveServer, eventually, replace, serving

BARE = """
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        SETUP

    def run_api(self):
        RUN
"""


@pytest.fixture
def server(shared_server: LiveServer) -> LiveServer:
    return shared_server


def wrapper(run: str, *, setup: str = "pass", head: str = "") -> str:
    return head + BARE.replace("SETUP", setup).replace("RUN", run)


@pytest.mark.parametrize(
    ("head", "run"),
    [
        ("from .helper import x\n", "return x"),
        ("from . import helper\n", "return helper.x"),
        ("import helper\n", "return helper.x"),
        ("from helper import x\n", "return x"),
        ("import package.part\n", "return package.part.x"),
        ("from package.part import x\n", "return x"),
        ("from package import part\n", "return part.x"),
        ("from .package import part\n", "return part.x"),
        ("import bare.part as part\n", "return part.x"),
        ("", "import helper; return helper.x"),
        ("", "from .helper import x; return x"),
        ("import through\n", "return through.x"),
        ("", "import importlib; return importlib.import_module('.helper', __package__).x"),
    ],
)
def test_the_files_beside_the_wrapper_are_reached(server: LiveServer, head: str, run: str):
    files = {
        "helper.py": "x = 'mine'",
        "package/__init__.py": "",
        "package/part.py": "x = 'mine'",
        "bare/part.py": "x = 'mine'",
        "through.py": "from helper import x",
    }
    server.serve("chat", wrapper(run, head=head), files)

    assert server.run("chat") == "mine"
    assert "helper" not in sys.modules


def test_wrappers_do_not_see_each_others_modules(server: LiveServer):
    for name in ("one", "two"):
        server.serve(name, wrapper("return utils.x", head="import utils\n"), {"utils.py": f"x = {name!r}"})

    assert [server.run("one"), server.run("two")] == ["one", "two"]


@pytest.mark.parametrize("name", ["json", "haystack", "hayhooks", "asyncio"])
def test_a_folder_named_like_a_package_breaks_nobody(server: LiveServer, name: str):
    server.serve(name, wrapper("return 'fine'"), {"__init__.py": "", "dumps.py": ""})
    server.serve("other", wrapper("return json.dumps(1)", head="import asyncio, haystack, json\n"))

    assert [server.run(name), server.run("other")] == ["fine", "1"]


def test_a_sibling_named_like_a_module_of_pythons_is_only_the_wrappers(server: LiveServer):
    server.serve("chat", wrapper("return calendar.x", head="import calendar\n"), {"calendar.py": "x = 'mine'"})
    server.serve("other", wrapper("return calendar.isleap(2024)", head="import calendar\n"))

    assert [server.run("chat"), server.run("other")] == ["mine", True]


def test_an_old_revision_that_imports_only_now_gets_its_own_helper(server: LiveServer, tmp_path: Path):
    began, gate = tmp_path / "began", tmp_path / "gate"
    waits = wrapper(
        f"Path({str(began)!r}).touch()\n"
        f"        while not Path({str(gate)!r}).exists(): time.sleep(0.01)\n"
        "        import helper; return helper.x",
        head="import time\nfrom pathlib import Path\n",
    )
    server.serve("chat", waits, {"helper.py": "x = 'old'"})
    with server.in_background("/chat/run", {}) as request:
        eventually(began.exists)
        server.serve("chat", waits, {"helper.py": "x = 'new'"})
        gate.touch()
        assert request.result().json() == {"result": "old"}
    assert server.run("chat") == "new"


def test_edits_of_one_size_are_never_answered_from_stale_bytecode(server: LiveServer):
    assert not sys.dont_write_bytecode
    for number in range(10):
        server.serve("chat", wrapper("return helper.x", head="import helper\n"), {"helper.py": f"x = {number}"})
        assert server.run("chat") == number

    assert not list(server.root.rglob("__pycache__"))


def test_classes_are_the_same_within_a_revision(server: LiveServer):
    head = (
        "from __future__ import annotations\n"
        "import enum, pickle\nfrom dataclasses import dataclass\nfrom pydantic import BaseModel\n"
        "class Color(enum.Enum):\n    RED = 1\n"
        "@dataclass\nclass Point:\n    x: int\n    color: Color\n"
        "class Model(BaseModel):\n    point: Point\n"
    )
    run = (
        "model = Model(point=Point(1, Color.RED)); copy = pickle.loads(pickle.dumps(model)); "
        "return copy == model and copy.point.color is Color.RED and type(copy) is Model"
    )
    server.serve("chat", wrapper(run, head=head))

    assert server.run("chat") is True


def test_yaml_finds_component_classes_of_the_folder(server: LiveServer):
    component = (
        "from haystack import component\n"
        "@component\nclass Times:\n"
        "    def __init__(self, factor: int):\n        self.factor = factor\n"
        "    @component.output_types(value=int)\n"
        "    def run(self, value: int):\n        return {'value': value * self.factor}\n"
    )
    pipeline = "components:\n  times:\n    type: parts.numbers.Times\n    init_parameters: {factor: FACTOR}\n"
    chat = wrapper(
        "return [p.run({'times': {'value': 2}})['times']['value'] for p in (self.first, self.second)]",
        setup="from haystack import Pipeline; from pathlib import Path; "
        "self.first = Pipeline.loads(Path(__file__).with_name('pipeline.yml').read_text()); "
        "self.second = Pipeline.loads(self.first.dumps())",
    )
    for factor in (3, 4):
        server.serve(
            "chat",
            chat,
            {"parts/numbers.py": component, "pipeline.yml": pipeline.replace("FACTOR", str(factor))},
        )
        assert server.run("chat") == [2 * factor, 2 * factor]


BROKEN = {
    "syntax": ("def broken(:\n", "SyntaxError", 1),
    "missing module": (
        "import nothing_of_this_name\n",
        "ModuleNotFoundError: No module named 'nothing_of_this_name'",
        1,
    ),
    "missing sibling": ("from .nothing import x\n", "No module named 'nothing'", 1),
    "raises at import": ("\nraise ValueError('at import')\n", "ValueError: at import", 2),
    "raises in setup": (wrapper("pass", setup="raise ValueError('in setup')"), "ValueError: in setup", 7),
    "sys.exit": (wrapper("pass", setup="raise SystemExit(3)"), "SystemExit: 3", 7),
    "KeyboardInterrupt": (wrapper("pass", setup="raise KeyboardInterrupt"), "KeyboardInterrupt", 7),
    "BaseException": (wrapper("pass", setup="raise BaseException('odd')"), "BaseException: odd", 7),
    "empty": ("", "has no class PipelineWrapper: define class PipelineWrapper(BasePipelineWrapper)", None),
    "other name": (ECHO.replace("PipelineWrapper(", "Echo("), "rename Echo to PipelineWrapper", None),
    "not derived": ("class PipelineWrapper: ...", "does not derive from BasePipelineWrapper", None),
    "no method": (BARE.replace("run_api", "run"), "implements none of run_api", None),
    "async setup": (BARE.replace("def setup", "async def setup"), "setup() of PipelineWrapper is async", None),
    "positional": (
        BARE.replace("run_api(self", "run_api(self, text, /"),
        "parameter 'text' is positional-only",
        None,
    ),
    "unknown type": (
        BARE.replace("run_api(self", "run_api(self, text: 'Strr' = 1"),
        "run_api(): the annotation of parameter 'text', Strr, cannot be resolved: NameError: name 'Strr'",
        None,
    ),
    "unknown type in a list": (
        BARE.replace("run_api(self", "run_api(self, a: int, texts: list['Strr']"),
        "the annotation of parameter 'texts', list['Strr'], cannot be resolved",
        None,
    ),
    "unknown result": (
        BARE.replace("run_api(self)", "run_api(self) -> 'Strr'"),
        "run_api(): the annotation of the result, Strr, cannot be resolved",
        None,
    ),
    "no JSON": (
        "from haystack import Pipeline\n" + BARE.replace("run_api(self", "run_api(self, text: str, pipeline: Pipeline"),
        "run_api(): parameter 'pipeline' cannot be taken from JSON",
        None,
    ),
    "no JSON in a list": (
        "import threading\n" + BARE.replace("run_api(self", "run_api(self, locks: list[threading.Event] = []"),
        "run_api(): parameter 'locks' cannot be taken from JSON",
        None,
    ),
    "a value as annotation": (
        BARE.replace("run_api(self", "run_api(self, text: str, count: 5"),
        "run_api(): the annotation of parameter 'count' cannot be used",
        None,
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_broken_is_a_failure_and_the_last_good_revision_serves(server: LiveServer, kind: str):
    source, reason, line = BROKEN[kind]
    source = source.replace("SETUP", "pass").replace("RUN", "pass")
    server.serve("chat", answer="good")
    folder = server.root / "chat"
    replace(folder / "pipeline_wrapper.py", source)
    state = server.eventually(lambda: (s := server.state("chat"))["state"] == "stale" and s)

    assert reason in state["error"].partition("\n")[0]
    if line is not None:
        assert f"at {folder / 'pipeline_wrapper.py'}:{line}" in state["error"]
        assert f'  File "{folder / "pipeline_wrapper.py"}", line {line}' in state["error"]  # the traceback
    assert "/hayhooks/kernel/" not in state["error"]
    assert "importlib" not in state["error"]
    assert server.run("chat") == "good"
    assert server.client.get("/status/chat").status_code == 200

    server.serve("chat", answer="mended")
    assert server.run("chat") == "mended"
    assert server.state("chat")["error"] is None


@pytest.mark.parametrize("content", [b"\xff\xfe broken", b"x = 1\0"])
def test_what_is_no_text_is_a_failure(server: LiveServer, content: bytes):
    (server.root / "chat").mkdir()
    (server.root / "chat/pipeline_wrapper.py").write_bytes(content)
    server.eventually(lambda: server.state("chat")["state"] == "failed")

    assert "Error" in server.state("chat")["error"]
    assert server.client.get("/status/chat").status_code == 503
    assert server.client.post("/chat/run", json={}).status_code == 503


def test_the_repair_of_a_helper_alone_is_enough(server: LiveServer):
    server.write("chat", wrapper("return helper.x", head="import helper\n"), {"helper.py": "x = "})
    server.eventually(lambda: server.state("chat")["state"] == "failed")
    assert "helper.py:1" in server.state("chat")["error"]

    replace(server.root / "chat/helper.py", "x = 1")
    server.eventually(lambda: server.state("chat")["state"] == "serving")
    assert server.run("chat") == 1


def test_going_back_to_what_serves_ends_the_failure_without_a_reload(own_server: LiveServer):
    good = wrapper("return self.made", setup="import uuid; self.made = uuid.uuid4().hex")
    own_server.serve("chat", good)
    made = own_server.run("chat")
    own_server.write("chat", "import")
    own_server.eventually(lambda: own_server.state("chat")["state"] == "stale")
    own_server.write("chat", good)
    own_server.eventually(lambda: own_server.state("chat")["state"] == "serving")

    assert own_server.run("chat") == made


def test_a_home_that_haystack_cannot_write_to_is_told_with_what_to_set(server: LiveServer):
    refused = 'raise PermissionError(13, "Permission denied", "/home/nobody/.haystack")'
    server.write("homeless", ECHO.replace("        pass", f"        {refused}"))

    server.eventually(lambda: "hint: HAYSTACK_TELEMETRY_ENABLED=false" in server.state("homeless")["error"])


def test_a_hint_names_what_to_install(own_server: LiveServer):
    own_server.write("one", "import yaml_of_nobody")
    own_server.write("two", "import sklearn")
    own_server.write("three", "import sklearn", {"requirements.txt": "scikit-learn"})
    own_server.write("four", "import fourier_of_nobody")
    own_server.write("five", "from .nothing import x")
    own_server.eventually(
        lambda: len(own_server.status()["deployments"]) == 5 and not own_server.app.switch.live.snapshot.loading
    )
    errors = {entry["name"]: entry["error"] for entry in own_server.status()["deployments"]}

    assert "hint: install the package that provides `yaml_of_nobody`" in errors["one"]
    assert "hint: pip install scikit-learn" in errors["two"]
    assert "hint: install the package that provides `fourier_of_nobody`" in errors["four"]
    assert "hint:" not in errors["five"]
    assert f"hint: pip install -r {own_server.root}/three/requirements.txt" in errors["three"]


def test_pipelines_are_warmed_up_before_they_serve_and_closed_after(server: LiveServer, tmp_path: Path):
    log = tmp_path / "log"
    head = (
        "from haystack import Pipeline, component\n"
        "def tell(what):\n"
        f"    with open({str(log)!r}, 'a') as log: log.write(what + ' ')\n"
        "@component\nclass Warm:\n"
        "    def warm_up(self): tell('warm')\n"
        "    def close(self): tell('close')\n"
        "    @component.output_types(x=int)\n"
        "    def run(self): return {'x': 1}\n"
    )
    chat = wrapper(
        "return 1",
        setup="self.pipeline = Pipeline(); self.pipeline.add_component('warm', Warm()); tell('setup')",
        head=head,
    )
    server.serve("chat", chat + "\n    def teardown(self): tell('teardown')\n")
    assert log.read_text() == "setup warm "

    server.remove("chat")
    eventually(lambda: log.read_text() == "setup warm teardown close ")


KEYLESS = """
from haystack import Pipeline, component
from haystack.components.agents import Agent
from haystack.components.generators.chat import OpenAIChatGenerator

from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    OPTION

    def setup(self):
        self.pipeline = Pipeline()
        self.pipeline.add_component("llm", PART)

    def run_api(self):
        return "no key is needed"

    async def run_chat_completion_async(self, model, messages, body):
        return await self.pipeline.run_async({"llm": {"messages": "hi"}})
"""


@pytest.mark.parametrize(
    ("part", "where"),
    [
        ("OpenAIChatGenerator()", "component 'llm' (OpenAIChatGenerator)"),
        ("Agent(chat_generator=OpenAIChatGenerator())", "OpenAIChatGenerator of component 'llm' (Agent)"),
    ],
)
def test_a_missing_api_key_names_the_component_and_the_variable(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch, part: str, where: str
):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    keyless = KEYLESS.replace("PART", part)
    server.write("keyless", keyless.replace("OPTION", ""))
    error = eventually(lambda: server.state("keyless")["error"], "the failure")
    assert error.startswith(
        "ValueError: None of the following authentication environment variables are set: "
        f"('OPENAI_API_KEY',), in {where}\n"
    )
    assert f"pipeline_wrapper.py:{keyless[: keyless.index(part)].count(chr(10)) + 1}: self.pipeline.add_comp" in error
    assert "hint: set OPENAI_API_KEY, or `warm_up = False` in the wrapper to load it without\n" in error

    server.serve("keyless", keyless.replace("OPTION", "warm_up = False"))
    assert server.run("keyless") == "no key is needed"
    chat = server.client.post("/keyless/chat", json={"messages": [{"role": "user", "content": "hi"}]})
    assert (chat.status_code, "OPENAI_API_KEY" in chat.json()["error"]["message"]) == (500, True)


def test_a_missing_api_key_of_a_yaml_names_the_variable(server: LiveServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    part = "haystack.components.generators.chat.openai.OpenAIChatGenerator"
    replace(server.root / "keyless.yml", f"components:\n  llm:\n    type: {part}\n    init_parameters: {{}}\n")
    error = eventually(lambda: server.state("keyless")["error"], "the failure")

    assert "in component 'llm' (OpenAIChatGenerator)\n" in error
    assert "hint: set OPENAI_API_KEY\n" in error


def test_a_wrapper_with_a_method_warm_up_is_warmed_up(server: LiveServer):
    own = ECHO + "\n    def warm_up(self):\n        raise ValueError('nobody calls it')\n"
    server.serve("own", own, answer="fine ")

    assert server.run("own", text="x") == "fine x"


def test_a_module_reads_the_files_beside_it(server: LiveServer):
    head = "import pkgutil\nfrom importlib import resources\nfrom pathlib import Path\n"
    run = (
        "return [(Path(__file__).parent / 'prompt.txt').read_text(), "
        "pkgutil.get_data(__package__, 'prompt.txt').decode(), "
        "(resources.files(__package__) / 'prompt.txt').read_text()]"
    )
    server.serve("chat", wrapper(run, head=head), {"prompt.txt": "say"})

    assert server.run("chat") == ["say", "say", "say"]
    server.serve("chat", wrapper(run, head=head), {"prompt.txt": "sing"})
    assert server.run("chat") == ["sing", "sing", "sing"]


def test_an_additional_path_gives_shared_modules(tmp_path: Path, root: Path):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/common_to_all.py").write_text("x = 'shared'")
    before = list(sys.path)
    try:
        with serving(root, additional_python_path=f"{tmp_path}/shared{os.pathsep}{tmp_path}") as server:
            server.serve("chat", wrapper("return common_to_all.x", head="import common_to_all\n"))
            assert server.run("chat") == "shared"
    finally:
        sys.path[:] = before


def test_a_template_that_cannot_be_parsed_names_its_line(server: LiveServer):
    text = "from haystack.components.builders import PromptBuilder\nTEXT = '''a\n{% if %}\n'''\n"
    server.write("chat", text + wrapper("pass", setup="PromptBuilder(TEXT)"))
    state = server.eventually(lambda: (s := server.state("chat")) and s["state"] == "failed" and s)

    assert "TemplateSyntaxError: Expected an expression" in state["error"]
    assert ", in line 2 of the template" in state["error"]
    assert f"at {server.root}/chat/pipeline_wrapper.py:3: {{% if %}}" in state["error"]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("a2a = 'no'", "a2a of the wrapper is 'no': it must be True or False"),
        ("a2a = 0", "a2a of the wrapper is 0: it must be True or False"),
        ("a2a = None", "a2a of the wrapper is None: it must be True or False"),
        ("skip_a2a = 1", "skip_a2a of the wrapper is 1: "),
        ("skip_mcp = 'false'", "skip_mcp of the wrapper is 'false': "),
        ("mcp_chat = []", "mcp_chat of the wrapper is []: "),
        ("skip_mcp = property(lambda self: 'x' * 1000)", "skip_mcp of the wrapper is 'xxx"),
        ("skip_mcp = property(lambda self: exit(3))", "SystemExit: 3"),
        ("a2a_card = 'Desk'", "a2a_card of the wrapper is 'Desk': it must be a dict with the names of fields"),
        ("a2a_card = {1: 2}", "a2a_card of the wrapper is {1: 2}: it must be a dict with the names of fields"),
        ("a2a_card = {'description': 3}", "a2a_card['description'] of the wrapper is 3: it must be a text"),
        ("a2a_card = {'version': 1.0}", "a2a_card['version'] of the wrapper is 1.0: it must be a text"),
        (
            "a2a_card = {'skills': ['trips']}",
            "a2a_card['skills'] of the wrapper is ['trips']: it must be a list of dicts",
        ),
        ("a2a_card = {'skills': {}}", "a2a_card['skills'] of the wrapper is {}: it must be a list of dicts"),
    ],
)
def test_a_wrong_option_for_agents_is_a_failure_that_names_it(server: LiveServer, line: str, told: str):
    server.write("it", ECHO.replace("    def setup", f"    {line}\n\n    def setup", 1), answer="")
    server.eventually(lambda: told in server.state("it")["error"])


def test_an_option_for_agents_that_does_nothing_is_told(server: LiveServer, logged: list[str]):
    """A misspelled one, and a chat for MCP where there is none."""
    lines = ("skipmcp = True", "mcp_chatt = True", "a2a_crd = {}", "A2A = False", "mcp_chat = True")
    text = wrapper("return 1").replace("    def setup", "    {}\n\n    def setup".format("\n    ".join(lines)), 1)
    server.serve("it", text)
    assert [entry.partition("did you mean ")[2] for entry in logged if "nothing reads" in entry] == [
        "skip_mcp?",
        "mcp_chat?",
        "a2a_card?",
        "a2a?",
    ]
    (told,) = (entry for entry in logged if "mcp_chat is True" in entry)
    assert "it: mcp_chat is True, but nothing answers chats: it needs run_chat_completion()" in told


def test_a_misspelled_method_is_told(server: LiveServer, logged: list[str]):
    misspelled = "def run_chat_completions(self, model, messages, body): ...\n\n    def run_api(self"
    helper = "def run_api_sync(self): ...\n\n    def check_words(self): ...\n\n    def chek(self): ...\n\n    "
    server.serve(
        "it", ECHO.replace("def run_api(self", helper + misspelled).replace("def run_chat_completion(", "def a(")
    )
    told = [entry for entry in logged if "did you mean" in entry]
    assert [entry.partition("nothing calls ")[2] for entry in told] == [
        "chek() of PipelineWrapper: did you mean check()?",
        "run_chat_completions() of PipelineWrapper: did you mean run_chat_completion()?",
    ]
    server.write("it", BARE.replace("SETUP", "pass").replace("run_api", "run_apis").replace("RUN", "pass"))
    state = server.eventually(lambda: (s := server.state("it"))["state"] == "stale" and s)
    assert "did you mean run_api() instead of run_apis()?" in state["error"]
