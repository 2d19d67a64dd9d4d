"""``hayhooks pipeline run``: what is sent, and what is printed."""

import json
import subprocess

import pytest

from hayhooks.cli.server_sent_events import events
from tests.cli.commands import hayhooks, pipeline
from tests.cli.processes import environment
from tests.fork_server import HAYHOOKS, popen
from tests.live_server import eventually, replace
from tests.wrappers import source

TAKES = """
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_api(self, times: int = 1, text: str = "", data: dict | None = None):
        return {"times": times, "text": text, "data": data}
"""

KINDS = """
from hayhooks import BasePipelineWrapper, SSEStream
from starlette.responses import Response


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_api(self, kind: str):
        match kind:
            case "text":
                return "é"
            case "list":
                return [1, "é"]
            case "stream":
                return (part for part in ("a", "b"))
            case "events":
                return SSEStream(part for part in ("a", "b"))
            case "no JSON":
                return Response("[1, é", media_type="application/json")
            case "binary":
                return Response(bytes(range(256)), media_type="application/octet-stream")
        raise ValueError("no such kind")
"""

FILES = """
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_api(self, files=None, times: int = 1):
        return [times, sorted((file.filename, file.file.read().decode()) for file in files)]
"""


def test_run_prints_texts_as_they_are_and_the_rest_as_json(server, port, tmp_path):
    server.serve("kinds", KINDS)
    outputs = {
        kind: pipeline("run", "kinds", "-p", f"kind={kind}", cwd=tmp_path, port=port).stdout
        for kind in ("text", "list", "stream", "events", "no JSON")
    }

    assert outputs == {
        "text": "é\n",
        "list": '[\n  1,\n  "é"\n]\n',
        "stream": "ab\n",
        "events": "a\nb\n",
        "no JSON": "[1, é\n",
    }


def test_run_asks_for_a_stream_and_says_where_there_is_none(server, port, tmp_path):
    server.serve("kinds", KINDS)

    streamed = pipeline("run", "kinds", "-p", "kind=text", "--stream", cwd=tmp_path, port=port)
    assert (streamed.returncode, streamed.stdout) == (0, "é\n")
    refused = pipeline("run", "kinds", "-p", "kind=list", "--stream", cwd=tmp_path, port=port)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "kinds has no stream: run_api() returned a list" in refused.stderr
    assert "?stream" not in refused.stderr


def test_run_writes_what_is_no_text_to_a_pipe_or_a_file(server, port, tmp_path):
    server.serve("kinds", KINDS)
    command = [HAYHOOKS, "pipeline", "run", "kinds", "-p", "kind=binary", "--port", port]
    piped = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, check=True)
    subprocess.run([*command, "-O", "out.bin"], cwd=tmp_path, env=environment(), capture_output=True, check=True)

    assert piped.stdout == (tmp_path / "out.bin").read_bytes() == bytes(range(256))


def test_run_prints_a_stream_as_it_comes(server, port, tmp_path):
    gate = tmp_path / "gate"
    code = KINDS.replace("match kind:", f"return wait({str(gate)!r})\n        match kind:")
    code += (
        "\ndef wait(gate):\n    import os, time\n    yield 'began '\n"
        "    while not os.path.exists(gate):\n        time.sleep(0.01)\n    yield 'ended'\n"
    )
    server.serve("slow", code)
    output = tmp_path / "output"
    command = [HAYHOOKS, "pipeline", "run", "slow", "-p", "kind=x", "--stream", "--port", port]
    with (
        output.open("wb") as file,
        popen(command, cwd=tmp_path, env=environment(), stdout=file) as process,
    ):
        eventually(lambda: output.read_text() == "began ")
        gate.touch()
        assert process.wait(60) == 0
    assert output.read_text() == "began ended\n"


def test_run_takes_arguments_as_json_where_they_are_some(server, port, tmp_path):
    server.serve("takes", TAKES)
    arguments = ["-p", "times=3", "-p", "text=hello = you", "--param", 'data={"a": [1]}']

    done = pipeline("run", "takes", *arguments, cwd=tmp_path, port=port)

    assert json.loads(done.stdout) == {"times": 3, "text": "hello = you", "data": {"a": [1]}}


def test_run_uploads_files_and_those_of_directories(server, port, tmp_path):
    server.serve("uploads", FILES)
    for path in ("one.txt", "more/two.txt", "more/deep/three.txt", "more/.hidden"):
        replace(tmp_path / path, path)

    done = pipeline("run", "uploads", "-f", "one.txt", "-d", "more", "-p", "times=2", cwd=tmp_path, port=port)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [
        2,
        [["one.txt", "one.txt"], ["three.txt", "more/deep/three.txt"], ["two.txt", "more/two.txt"]],
    ]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["kinds", "-p", "kind=none"], 1, "Pipeline execution failed: ValueError: no such kind (500)"),
        (["kinds"], 1, "kind: Field required"),
        (["kinds", "-p", "kind=5"], 1, "to send text write -p 'kind=\"5\"'"),
        (["kind", "-p", "kind=5"], 1, "there is no pipeline 'kind'; did you mean 'kinds'?"),
        (["kinds", "-p", "kind"], 2, "expected key=value"),
        (["kinds", "-f", "nowhere"], 2, "'nowhere' does not exist"),
        (["kinds", "-d", "empty"], 2, "the directory has no files"),
        (["../status"], 1, "404"),
    ],
)
def test_run_tells_in_one_line_what_is_wrong(server, port, tmp_path, arguments, status, message):
    server.serve("kinds", KINDS)
    (tmp_path / "empty").mkdir()

    done = pipeline("run", *arguments, cwd=tmp_path, port=port)

    assert done.returncode == status
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "No such file or directory"), ("# none yet", "it holds no key")]
)
@pytest.mark.parametrize("command", [("pipeline", "run", "echo"), ("status",)])
def test_keys_that_cannot_be_read_are_told_in_one_line(tmp_path, command, content, reason):
    if content is not None:
        (tmp_path / "keys").write_text(content)

    told = hayhooks(*command, cwd=tmp_path, PORT="1", API_KEYS_FILE="keys")

    assert (told.returncode, told.stderr.count("\n")) == (1, 1)
    assert f"HAYHOOKS_API_KEYS_FILE=keys: {reason}" in told.stderr


def test_run_without_a_server_says_where_it_asked(tmp_path):
    done = pipeline("run", "echo", cwd=tmp_path)

    assert done.returncode == 1
    assert "No answer from http://127.0.0.1:1/echo/run" in done.stderr


ONE_FILE = """
from starlette.datastructures import UploadFile
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_api(self, document: UploadFile, note: UploadFile | None = None):
        return [document.filename, note and note.filename]
"""


def test_run_sends_a_file_in_the_one_field_that_takes_files(server, port, tmp_path):
    server.serve("one", ONE_FILE.replace(", note: UploadFile | None = None", ", note=None"))
    replace(tmp_path / "a.txt", "a")

    sent = pipeline("run", "one", "--file", "a.txt", cwd=tmp_path, port=port)
    two = pipeline("run", "one", "-f", "a.txt", "-f", "a.txt", cwd=tmp_path, port=port)
    optional = source("upload_if_any")
    server.serve("optional", optional)
    if_any = pipeline("run", "optional", "-f", "a.txt", cwd=tmp_path, port=port)

    assert json.loads(sent.stdout) == ["a.txt", None]
    assert (two.returncode, two.stdout) == (1, "")
    assert "document: Value error, one file is expected, 2 came" in two.stderr
    assert if_any.stdout == "with\n"


def test_run_sends_a_file_in_the_field_that_is_named(server, port, tmp_path):
    server.serve("two", ONE_FILE)
    for path in ("a.txt", "b=c.txt", "more/d.txt"):
        replace(tmp_path / path, path)

    named = pipeline("run", "two", "-f", "document=a.txt", "-f", "note=b=c.txt", cwd=tmp_path, port=port)
    directory = pipeline("run", "two", "-f", "document=./b=c.txt", "-d", "note=more", cwd=tmp_path, port=port)
    unnamed = pipeline("run", "two", "-f", "a.txt", cwd=tmp_path, port=port)
    wrong = pipeline("run", "two", "-f", "dokument=a.txt", cwd=tmp_path, port=port)

    assert json.loads(named.stdout) == ["a.txt", "b=c.txt"]
    assert json.loads(directory.stdout) == ["b=c.txt", "d.txt"]
    assert unnamed.returncode == 2
    assert "'two' takes files in document and note: name one, -f document=FILE" in unnamed.stderr
    assert (wrong.returncode, wrong.stderr) == (
        1,
        "Error: document: Field required; you sent 'dokument', no argument of run_api()\n",
    )


def test_run_with_a_file_for_what_takes_none_is_told(server, port, tmp_path):
    server.serve("takes", TAKES)
    replace(tmp_path / "a.txt", "a")

    done = pipeline("run", "takes", "-f", "a.txt", cwd=tmp_path, port=port)
    unknown = pipeline("run", "take", "-f", "a.txt", cwd=tmp_path, port=port)

    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "it has no parameter for files (415)" in done.stderr
    assert "did you mean 'takes'?" in unknown.stderr


RESPONDS = """
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_response(self, model, input_items, body):
        return f"You said {input_items[-1]['content']}" if isinstance(input_items, list) else f"You said {input_items}"
"""

CHATS = """
from starlette.responses import JSONResponse
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_chat_completion(self, model, messages, body):
        if messages[-1]["content"] == "break":
            return self.breaks()
        if messages[-1]["content"] == "own":
            return JSONResponse(["mine"])
        words = [message["content"] for message in messages] + [str(body.get("temperature"))]
        return (word + " " for word in words) if body["stream"] else " ".join(words)

    def breaks(self):
        yield "half "
        raise ValueError("no more")
"""


def test_run_asks_what_can_only_respond(server, port, tmp_path):
    server.serve("responds", RESPONDS)

    for stream in ((), ("--stream",)):
        done = pipeline("run", "responds", "-p", "message=hi", *stream, cwd=tmp_path, port=port)
        assert (done.returncode, done.stdout, done.stderr) == (0, "You said hi\n", "")


@pytest.mark.parametrize("stream", [(), ("--stream",)])
def test_run_asks_what_can_only_chat(server, port, tmp_path, stream):
    server.serve("chats", CHATS)

    def run(*arguments: str) -> tuple[int, str, str]:
        done = pipeline("run", "chats", *stream, *arguments, cwd=tmp_path, port=port)
        return done.returncode, done.stdout.replace(" \n", "\n"), done.stderr

    conversation = 'messages=[{"role": "user", "content": "so"}]'
    assert run("-p", "message=5") == (0, "5 None\n", "")
    assert run("-p", conversation, "-p", "message=on", "-p", "temperature=0.5") == (0, "so on 0.5\n", "")
    assert stream or run("-p", "message=own") == (0, '[\n  "mine"\n]\n', "")
    status, _, error = run("-p", "text=hi")
    assert (status, error.count("-p message=TEXT")) == (2, 1)
    status, out, error = run("-p", "message=break")
    assert (status, out) == (1, "half " if stream else "")
    assert "no more" in error


def test_run_takes_no_files_for_a_chat(server, port, tmp_path):
    server.serve("chats", CHATS)
    replace(tmp_path / "a.txt", "a")

    done = pipeline("run", "chats", "-f", "a.txt", cwd=tmp_path, port=port)

    assert done.returncode == 2
    assert "'chats' can only chat: it takes no files" in done.stderr


NOT_FOUND = """
from starlette.exceptions import HTTPException
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_api(self):
        raise HTTPException(404, "no such thing")
"""


def test_run_shows_a_404_of_the_pipeline_as_its_own(server, port, tmp_path):
    server.serve("missing", NOT_FOUND)

    done = pipeline("run", "missing", cwd=tmp_path, port=port)

    assert (done.returncode, done.stderr) == (1, "Error: no such thing (404)\n")


BREAKS = """
from hayhooks import BasePipelineWrapper, SSEStream


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_api(self, kind: str):
        return SSEStream(self.half()) if kind == "events" else self.half()

    def half(self):
        yield "half"
        raise ValueError("no more")
"""


@pytest.mark.parametrize("stream", [(), ("--stream",)])
@pytest.mark.parametrize(("kind", "out"), [("text", "half"), ("events", "half\n")])
def test_a_stream_that_breaks_off_is_told(server, port, tmp_path, kind, out, stream):
    server.serve("breaks", BREAKS)

    done = pipeline("run", "breaks", "-p", f"kind={kind}", *stream, cwd=tmp_path, port=port)

    assert (done.returncode, done.stdout) == (1, out)
    assert done.stderr.startswith("Error: The answer of breaks broke off: ")
    assert ("no more" in done.stderr) == (kind == "events")
    assert done.stderr.count("\n") == 1


def test_a_file_with_half_an_answer_is_told(server, port, tmp_path):
    server.serve("breaks", BREAKS)

    done = pipeline("run", "breaks", "-p", "kind=text", "-O", "out", cwd=tmp_path, port=port)

    assert done.returncode == 1
    assert done.stderr.endswith("; out holds what came\n")
    assert (tmp_path / "out").read_text() == "half"


def test_an_answer_that_pauses_too_long_is_told(server, port, tmp_path):
    gate = tmp_path / "gate"
    waits = f"import os, time\n        while not os.path.exists({str(gate)!r}):\n            time.sleep(0.01)"
    server.serve("waits", BREAKS.replace('raise ValueError("no more")', waits))

    done = pipeline("run", "waits", "-p", "kind=text", "--timeout", "0.3", cwd=tmp_path, port=port)
    gate.touch()

    assert (done.returncode, done.stdout) == (1, "half")
    assert done.stderr == "Error: The answer of waits broke off: nothing came for 0.3 s (--timeout)\n"


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_events_are_read_by_the_standard(end):
    text = "\ufeff: a comment|data: a\u2028b\u0085c|data:|data:  d|ignored|id: 1||event: x|data||data: cut off"
    content = text.replace("|", end).encode()

    for size in (1, 2, 3, len(content)):
        parts = [content[start : start + size] for start in range(0, len(content), size)]
        assert list(events(parts)) == ["a\u2028b\u0085c\n\n d", ""]
