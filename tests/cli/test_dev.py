import contextlib
import re
from functools import partial
from io import StringIO
from pathlib import Path

import httpx
import pytest

from hayhooks.cli.dev_output import DevOutput
from tests.cli.commands import hayhooks
from tests.cli.processes import started
from tests.cli.terminal import in_terminal
from tests.live_server import ECHO, eventually, replace
from tests.pipelines import ASK

HINT = (
    "install the package that provides `nothing_of_this_name`; "
    "if `nothing_of_this_name` is your own, put it beside the wrapper, "
    "or add its directory to HAYHOOKS_ADDITIONAL_PYTHON_PATH"
)


def test_dev_tells_what_becomes_of_every_save(tmp_path):
    wrapper = tmp_path / "pipelines/echo/pipeline_wrapper.py"
    replace(wrapper, "ANSWER = ''\n" + ECHO)
    with started(tmp_path, "dev") as server:
        assert f"{server.url}/status" in server.output()
        line = r"✓ echo  [0-9a-f]{12}  in \d+ ms  POST /echo/run  POST /echo/chat  POST /echo/responses\n"
        eventually(lambda: re.search(line, server.output()))

        replace(wrapper, "ANSWER = 'new '\n" + ECHO)
        eventually(lambda: re.search(r"✓ echo  [0-9a-f]{12}  in \d+ ms  pipeline_wrapper.py\n", server.output()))

        server.post("/echo/run", {"text": "x"})
        eventually(lambda: re.search(r"→ POST /echo/run  200  in \d+ ms\n", server.output()))

        replace(wrapper, "import nothing_of_this_name\n" + ECHO)
        server.prints("keeps serving")
        lines = server.output().splitlines()
        assert "  ModuleNotFoundError: No module named 'nothing_of_this_name'" in lines
        assert f"  {wrapper}:1" in lines
        assert "  >    1 │ import nothing_of_this_name" in lines
        assert f"  hint: {HINT}" in lines
        assert re.match(r"  revision [0-9a-f]{12} keeps serving", lines[-1])

        replace(wrapper, "ANSWER = 'new '\n" + ECHO)
        server.prints("serves again")

        wrapper.unlink()
        server.prints("- echo  removed")
        assert server.stop() == 0


def test_dev_says_that_what_serves_at_its_start_is_not_what_is_on_disk(tmp_path):
    wrapper = tmp_path / "pipelines/echo/pipeline_wrapper.py"
    replace(wrapper, "ANSWER = ''\n" + ECHO)
    with started(tmp_path, "dev") as server:
        server.prints("✓ echo")
        assert server.stop() == 0
    replace(wrapper, "import threading\nthreading.Event().wait(60)\nANSWER = ''\n" + ECHO)
    with started(tmp_path, "dev") as server:
        server.prints("serves as it was saved: the files on disk do not, or not yet")


BOOST = """
from haystack import Pipeline, component

from hayhooks import BasePipelineWrapper, streaming_generator


@component
class Booster:
    @component.output_types(value=int)
    def run(self, by: dict):
        return {"value": by["boost"]}


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        self.pipeline = Pipeline()
        self.pipeline.add_component("booster", Booster())

    def run_api(self, where: str):
        match where:
            case "wrapper":
                return {}["boost"]
            case "component":
                return self.pipeline.run({"booster": {"by": {}}})
            case "stream":
                return self.pieces()

    def run_chat_completion(self, model, messages, body):
        raise ValueError("no " + model)

    def pieces(self):
        yield "a"
        raise ValueError("after a")
"""


@pytest.mark.parametrize(
    ("path", "body", "headline", "source"),
    [
        ("/boost/run", {"where": "wrapper"}, "✗ /boost/run failed: KeyError: 'boost'", 'return {}["boost"]'),
        (
            "/boost/run",
            {"where": "component"},
            "✗ /boost/run failed: KeyError: 'boost', in component 'booster' (Booster)",
            'return {"value": by["boost"]}',
        ),
        (
            "/boost/run",
            {"where": "stream"},
            "✗ boost: the answer failed in mid-stream: ValueError: after a",
            'raise ValueError("after a")',
        ),
        (
            "/boost/chat",
            {"messages": [{"role": "user", "content": "x"}]},
            "✗ boost: chat completions failed: ValueError: no boost",
            'raise ValueError("no " + model)',
        ),
    ],
)
def test_dev_shows_a_failing_request_as_a_failing_load(tmp_path, path, body, headline, source):
    wrapper = tmp_path / "pipelines/boost/pipeline_wrapper.py"
    replace(wrapper, BOOST)
    with started(tmp_path, "dev") as server:
        with contextlib.suppress(httpx.HTTPError):
            server.post(path, body)
        server.prints(f"→ POST {path}")
        lines = server.output().splitlines()
        first = next((number for number, line in enumerate(lines) if line.startswith(headline)), None)
        assert first is not None, server.output()
        assert sum(line.startswith("✗") for line in lines) == 1
        number = next(number for number, line in enumerate(BOOST.splitlines(), 1) if line.strip() == source)
        assert lines[first + 1] == f"  {wrapper}:{number}"
        assert f"  > {number:>4} │ {BOOST.splitlines()[number - 1]}" in lines[first + 2 : first + 7]
        assert "Traceback" not in server.output()
        (kept,) = re.findall(r"  full traceback: (.*)\n", server.output())
        assert "Traceback (most recent call last):" in Path(kept).read_text()
        Path(kept).unlink()


SLOW = """
import time
from pathlib import Path
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        while not Path(GATE).exists():
            time.sleep(0.01)

    async def run_api(self):
        time.sleep(0.7)
"""


def test_dev_tells_what_hangs(tmp_path):
    replace(tmp_path / "pipelines/slow/pipeline_wrapper.py", f"GATE = {str(tmp_path / 'gate')!r}\n{SLOW}")
    with started(tmp_path, "dev") as server:
        server.prints("slow")
        loading = r"slow \w{12} has been loading for \d+\.\d s: setup\(\) at /.*_wrapper\.py:1[01]: "
        eventually(lambda: re.search(rf"\n  {loading}", server.output()))
        (tmp_path / "gate").touch()
        server.prints("✓ slow")
        assert re.search(rf"\n  {loading}.*\n(.*\n)*✓ slow  \w{{12}}  in \d+ ms", server.output())

        def is_told() -> bool:
            server.post("/slow/run", {})
            return (
                "s by slow, pipeline_wrapper.py:14: time.sleep(0.7): use def, or asyncio.to_thread\n" in server.output()
            )

        eventually(is_told)


def test_dev_shows_a_failing_teardown_with_its_type(tmp_path):
    wrapper = tmp_path / "pipelines/boost/pipeline_wrapper.py"
    replace(wrapper, BOOST + "\n    def teardown(self):\n        {}['mine']\n")
    with started(tmp_path, "dev") as server:
        server.prints("✓ boost")
        wrapper.unlink()
        server.prints("teardown() of revision")
        server.prints(f"  {wrapper}:{len(BOOST.splitlines()) + 3}\n")
        assert "\n  KeyError: 'mine'\n" in server.output()


def test_dev_shows_tracebacks_that_begin_in_the_users_code(tmp_path):
    wrapper = tmp_path / "pipelines/boost/pipeline_wrapper.py"
    replace(wrapper, BOOST)
    with started(tmp_path, "dev", "--tracebacks") as server:
        server.post("/boost/run", {"where": "component"})
        server.prints("→ POST /boost/run")
        output = server.output()
        assert "Traceback (most recent call last):" in output
        assert "in run_api" in output
        assert "haystack/core/pipeline" in output
        assert "hayhooks/http" not in output

        replace(wrapper, "def broken():\n    import nothing_of_this_name\n\n\nbroken()\n")
        server.prints("keeps serving")
        server.prints("in broken")


def test_dev_serves_one_folder_by_its_path(tmp_path):
    replace(tmp_path / "many/one/pipeline_wrapper.py", "ANSWER = '1'\n" + ECHO)
    replace(tmp_path / "many/two/pipeline_wrapper.py", "ANSWER = '2'\n" + ECHO)
    with started(tmp_path, "dev", "many/one") as server:
        assert server.get("/status").json()["pipelines"] == ["one"]
        replace(tmp_path / "many/one/pipeline_wrapper.py", "ANSWER = '3'\n" + ECHO)
        eventually(lambda: server.post("/one/run", {}).json() == {"result": "3"})
        assert server.post("/two/run", {}).status_code == 404


def test_dev_names_the_folders_own_requirements(tmp_path):
    folder = tmp_path / "many/one"
    replace(folder / "requirements.txt", "nothing-of-this-name\n")
    replace(folder / "pipeline_wrapper.py", "import nothing_of_this_name\n")
    with started(tmp_path, "dev", "many") as server:
        server.prints(f"hint: pip install -r {folder}/requirements.txt")


def test_dev_serves_one_pipeline_in_yaml_by_its_path(tmp_path):
    wrong = ASK.replace("prompt.question", "promt.question")
    replace(tmp_path / "many/ask.yml", ASK)
    replace(tmp_path / "many/other.yml", ASK)
    with started(tmp_path, "dev", "many/ask.yml") as server:
        assert f"watching {tmp_path / 'many/ask.yml'}\n" in server.output()
        assert server.get("/status").json()["pipelines"] == ["ask"]
        replace(tmp_path / "many/ask.yml", wrong)
        server.prints("keeps serving")
        lines = server.output().splitlines()
        assert any(line.startswith("✗ ask  ") and line.endswith("  ask.yml") for line in lines)
        assert "  ask.yml:13: inputs.question names 'promt.question': there is no component 'promt'; did you mean" in (
            server.output()
        )
        assert "  >   13 │   question: promt.question" in lines


def test_dev_says_of_a_file_without_components_that_it_is_no_pipeline(tmp_path):
    replace(tmp_path / "many/compose.yml", "services: {}\n")
    with started(tmp_path, "dev", "many/compose.yml") as server:
        server.prints("not a pipeline: expected the key components")


def test_dev_says_that_the_directory_is_an_argument(tmp_path):
    done = hayhooks("dev", "--pipelines-dir", "my pipelines", cwd=tmp_path)

    assert done.returncode == 2
    assert "dev takes the directory as an argument: hayhooks dev 'my pipelines'" in " ".join(done.stderr.split())


def test_dev_refuses_a_file_that_is_none(tmp_path):
    replace(tmp_path / "notes.txt", "")
    done = hayhooks("dev", "notes.txt", cwd=tmp_path, PORT="0")

    assert done.returncode == 2
    assert "notes.txt is neither a directory nor a YAML pipeline (*.yml, *.yaml)" in " ".join(done.stderr.split())


NOISY = """
import logging

import httpx

from hayhooks import BasePipelineWrapper, log

print("from the import")


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        logging.getLogger("some.library").info("by a library")
        log.warning("by loguru\\nin two lines")
        print("printed", end="")
        print(" in pieces")
        try:
            httpx.get(URL)
        except httpx.HTTPError:
            log.info("not yet there")

    def run_api(self):
        print("in a request")
        return httpx.get(URL).status_code

    def teardown(self):
        print("from the teardown")
"""


def test_dev_marks_what_setup_prints_and_logs(tmp_path):
    replace(tmp_path / "pipelines/noisy/pipeline_wrapper.py", "URL = 'http://127.0.0.1:1'\n" + NOISY)
    with started(tmp_path, "dev") as server:
        server.stop()
        lines = server.output().splitlines()
    assert {"noisy: from the import", "noisy: printed in pieces", "noisy: from the teardown"} <= set(lines)
    assert {"  noisy: by a library", "  noisy: by loguru", "  noisy: not yet there"} <= set(lines)


def test_dev_is_quiet_otherwise(tmp_path):
    with started(tmp_path, "dev") as server:
        replace(tmp_path / "pipelines/noisy/pipeline_wrapper.py", f"URL = {server.url + '/status'!r}\n" + NOISY)
        server.prints("✓ noisy")
        for arguments in (["status"], ["pipeline", "list"], ["pipeline", "run", "noisy"]):
            done = hayhooks(*arguments, "--port", str(server.port), cwd=tmp_path)
            assert done.returncode == 0, done.stderr
        server.prints("→ POST /noisy/run")
        assert server.get("/healthz").status_code == 200
        of_page = {"Sec-Fetch-Site": "same-origin"}
        assert httpx.get(f"{server.url}/console/numbers", headers=of_page).status_code == 200
        assert httpx.get(f"{server.url}/v1/models", headers=of_page).status_code == 200
        server.prints("→ GET /v1/models")
        lines = server.output().splitlines()
    assert "in a request" in lines
    paths = [line.split()[2] for line in lines if line.startswith("→ ")]
    assert paths == ["/status", "/status", "/noisy/run", "/v1/models"]  # what the wrapper asks is shown
    assert not any(word in line for line in lines for word in ("HTTP Request", "website", "HAYHOOKS_CORS"))


def test_the_links_of_the_banner_open_pages(tmp_path):
    with in_terminal("dev", "--port", "0", "--host", "0.0.0.0", cwd=tmp_path, columns=200) as terminal:
        terminal.shows("Ctrl+C stops")
        links = re.findall(r"http://127\.0\.0\.1:[1-9]\d*/\S*", terminal.text)
        assert [link.split("/", 3)[3] for link in links][-3:] == ["docs", "status", "v1/models"]
        for link in links:
            assert eventually(partial(httpx.get, link)).status_code == 200


def test_control_characters_in_an_error_are_shown_and_not_obeyed():
    output = DevOutput()
    output.console.file = shown = StringIO()
    output.show("no file \x1b]0;mine\x07 of\x9b31m you")
    output.show_last_traceback()

    assert shown.getvalue() == "no file \u241b]0;mine of\ufffd31m you\nNo failure yet.\n"
