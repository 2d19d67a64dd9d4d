"""``hayhooks chat``: in a pipe, in a terminal, and with other servers."""

import json
import socket
import stat
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from hayhooks.cli import chat_client
from hayhooks.cli.chat_answer import AnswerPrinter
from tests.cli.commands import hayhooks
from tests.cli.terminal import in_terminal
from tests.live_server import replace
from tests.wrappers import source

WAITS = """
import asyncio
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    async def run_chat_completion_async(self, model, messages, body):
        yield "a part"
        if len(messages) == 1:
            await asyncio.sleep(60)
"""


def ask(*arguments, stdin, cwd, port="1", **settings):
    """Chat through pipes."""
    return hayhooks("chat", *arguments, cwd=cwd, stdin=stdin, PORT=port, **settings)


@pytest.fixture
def thinker(server):
    server.serve("thinker", source("thinks_aloud"))
    return server


def test_in_a_pipe_each_line_is_a_message_and_stdout_has_the_answers_alone(thinker, port, tmp_path):
    done = ask(stdin="Hello\nAnd you?\n", cwd=tmp_path, port=port)

    assert (done.returncode, done.stdout) == (0, "Hello: 1\nAnd you?: 3\n")
    assert done.stderr.splitlines()[:6] == [
        "· Searching",
        "· thought for 0.0 s, 3 words (/reasoning prints them)",
        "! Look!",
        "· Called 'search' tool",
        "← search: two lines",
        "[1] handbook.md (p. 3)",
    ]


def test_a_whole_answer_is_shown_with_its_events(capsys):
    with AnswerPrinter(shows_reasoning=False) as printer:
        source = {"type": "source", "data": {"source": {"name": "handbook.md"}}}
        printer.add_whole({"choices": [{"message": {"content": "At eight"}}], "events": [source]})

    told = capsys.readouterr()
    assert (told.out, told.err) == ("At eight\n", "[1] handbook.md\n")


def test_commands_work_in_a_pipe_too(thinker, port, tmp_path):
    lines = ["/system Be brief", "one", '"""two', 'lines"""', "/save talk.json", "/save talk.md", "/clear", "three"]
    done = ask("thinker", stdin="\n".join([*lines, "/retry", "/reasoning", "/quit", "four"]), cwd=tmp_path, port=port)

    assert done.stdout == "one: 2\ntwo\nlines: 4\nthree: 2\nthree: 2\n"
    assert done.stderr.endswith("It is simple.\n")
    assert json.loads((tmp_path / "talk.json").read_text()) == {
        "model": "thinker",
        "system": "Be brief",
        "messages": [
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "one: 2"},
            {"role": "user", "content": "two\nlines"},
            {"role": "assistant", "content": "two\nlines: 4"},
        ],
    }
    assert (tmp_path / "talk.md").read_text().startswith("# thinker\n\n## system\n\nBe brief\n\n## user\n\none\n\n")


def test_a_saved_conversation_goes_on(thinker, port, tmp_path):
    ask(stdin="one\n/save talk.json\n", cwd=tmp_path, port=port)
    done = ask(stdin="/load talk.json\ntwo\n", cwd=tmp_path, port=port)

    assert done.stdout == "two: 3\n"


def test_the_results_of_tools_are_the_next_lines(server, port, tmp_path):
    server.serve("weather", source("asks_weather"))
    done = ask(stdin="How is it?\nsunny\n", cwd=tmp_path, port=port)

    assert done.stdout == "It is sunny.\n"
    assert '→ weather({"city": "Paris"})' in done.stderr


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("\udcff", r"Standard input is not UTF-8: '\udcff'"),
        ("fail", r"The answer of thinker broke off: ValueError: no \x1b[31m way"),
        ("/modle", "There is no /modle: did you mean /model?"),
        ("/save", "/save FILE: the name of the file is missing"),
        ("/save no/such/folder", "Cannot write no/such/folder: No such file or directory"),
        ("/load no.json", "Cannot read no.json: No such file or directory"),
        ("/load odd.json", "odd.json is no conversation that /save has written as JSON"),
        ("/retry", "There is no question yet"),
        ("/reasoning of", "/reasoning of: expected on, off, or nothing"),
        ("/model thinkr", "The server has no model 'thinkr': did you mean thinker?"),
    ],
)
def test_an_error_ends_a_pipe_with_status_1(thinker, port, tmp_path, line, what):
    (tmp_path / "odd.json").write_text('{"messages": ["text"]}')
    done = ask(stdin=f"{line}\nmore\n", cwd=tmp_path, port=port)

    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, f"Error: {what}")
    assert "more" not in done.stdout


def test_a_model_must_be_chosen_where_there_are_several(thinker, port, tmp_path):
    thinker.serve("weather", source("asks_weather"))

    assert "has 2 models: name one of thinker, weather" in ask(stdin="hi\n", cwd=tmp_path, port=port).stderr
    assert "did you mean thinker?" in ask("thinkr", stdin="hi\n", cwd=tmp_path, port=port).stderr


def test_a_name_that_cannot_chat_says_which_can(server, port, tmp_path):
    server.serve("echo", source("typed"))
    replace(server.root / "broken/pipeline_wrapper.py", "import nothing_like_it")
    server.eventually(lambda: server.state("broken")["state"] == "failed")
    lonely = ask("echo", stdin="hi\n", cwd=tmp_path, port=port)
    server.serve("thinker", source("thinks_aloud"))
    asked = [ask(name, stdin="hi\n", cwd=tmp_path, port=port) for name in ("echo", "broken")]

    needs = "Error: echo does not chat: a wrapper needs run_chat_completion, YAML the key chat; "
    assert [(done.returncode, done.stderr) for done in (lonely, *asked)] == [
        (1, f"{needs}nothing at this server does\n"),
        (1, f"{needs}these do: thinker\n"),
        (1, "Error: broken does not serve, it is failed: see `hayhooks status`\n"),
    ]


def test_a_wrong_answer_to_which_model_asks_again(server, port, tmp_path):
    server.serve("thinker", source("thinks_aloud"))
    server.serve("weather", source("asks_weather"))
    with in_terminal("chat", "--history", tmp_path / "history", cwd=tmp_path, PORT=port) as terminal:
        seen = terminal.shows("model> ")
        terminal.type("thinkr")
        seen = terminal.shows("did you mean thinker?", seen)
        seen = terminal.shows("model> ", seen)
        terminal.type("thinker")
        terminal.shows("/help lists the commands", seen)


@pytest.mark.parametrize("arguments", [("chat", "--system", "\udcff"), ("pipeline", "run", "it", "-p", "text=\udcff")])
def test_an_argument_that_is_no_utf_8_is_refused(tmp_path, arguments):
    done = hayhooks(*arguments, cwd=tmp_path)

    assert done.returncode == 2
    assert "\\udcff' is not UTF-8" in done.stderr


def test_without_a_server_it_says_how_to_start_one(tmp_path):
    assert (
        "Is `hayhooks run` or `hayhooks dev` running there? (--port, HAYHOOKS_PORT)"
        in ask(stdin="hi\n", cwd=tmp_path).stderr
    )


@pytest.mark.parametrize("url", ["127.0.0.1:1416", "ftp://127.0.0.1", "http://", "http://a:b", "http://[::1"])
def test_an_address_that_is_none_is_refused(tmp_path, url):
    done = ask("--url", url, stdin="hi\n", cwd=tmp_path)

    assert done.returncode == 2
    assert "expected the address of a server, as http://127.0.0.1:1416" in done.stderr


def test_in_a_terminal_errors_do_not_end_it_and_the_history_is_kept(thinker, port, tmp_path):
    history = tmp_path / "state/history"
    with in_terminal("chat", "--history", history, cwd=tmp_path, PORT=port) as terminal:
        seen = terminal.shows("/help lists the commands")
        terminal.type("Hello")
        seen = terminal.shows("Hello: 1", seen)
        seen = terminal.shows("[1] handbook.md (p. 3)", seen)
        terminal.type("fail")
        seen = terminal.shows(r"broke off: ValueError: no \x1b[31m way", seen)
        terminal.type("/reasoning on")
        terminal.type("Again")
        seen = terminal.shows("It is simple.", seen)
        seen = terminal.shows("Again: 5", seen)
        terminal.shows("\n> ", seen)  # Ctrl+D means the end at a prompt only
        terminal.type("\x04", end="")

        assert terminal.wait() == 0
    assert history.read_text().split("\n")[:3] == ["Hello", "fail", "/reasoning on"]
    assert stat.S_IMODE(history.stat().st_mode) == 0o600


def test_ctrl_c_stops_an_answer_and_its_part_stays_in_the_conversation(server, port, tmp_path):
    server.serve("waits", WAITS)
    with in_terminal("chat", "--history", tmp_path / "history", cwd=tmp_path, PORT=port) as terminal:
        terminal.shows("/help lists")
        terminal.type("Hello")
        seen = terminal.shows("a part")
        terminal.type("\x03", end="")
        seen = terminal.shows("stopped", seen)
        terminal.type("Hello again")
        terminal.shows("a part", seen)
        terminal.type("/quit")

        assert terminal.wait() == 0


class _Other(BaseHTTPRequestHandler):
    """A server with the OpenAI API that does not stream and does not list its models."""

    def do_GET(self):
        self.send_error(404)

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        answer = f"{self.path} {self.headers['Authorization']}"
        body = json.dumps({"choices": [{"message": {"content": answer}, "finish_reason": "stop"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def other_server():
    with ThreadingHTTPServer(("127.0.0.1", 0), _Other) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


def test_any_server_of_the_openai_api_will_do(tmp_path):
    with other_server() as url:
        answers = [
            ask("gpt", *arguments, stdin="hi\n", cwd=tmp_path, API_KEYS="ours").stdout
            for arguments in (["--url", url], ["--url", f"{url}/some/v1/"], ["--url", url, "--api-key", "theirs"])
        ]

    assert answers == [
        "/v1/chat/completions Bearer ours\n",
        "/some/v1/chat/completions Bearer ours\n",
        "/v1/chat/completions Bearer theirs\n",
    ]


def test_a_key_of_ours_goes_to_another_machine_with_https_only(tmp_path, monkeypatch):
    """The proxy is asked for http too where it is obeyed, so that it would see the key."""
    with other_server() as url:
        for scheme in ("http", "https", "all"):
            monkeypatch.setenv(f"{scheme}_proxy", url)
        done = ask("gpt", "--url", "http://hayhooks.invalid", stdin="hi\n", cwd=tmp_path, API_KEYS="ours")

    assert done.returncode == 1
    assert "No answer from http://hayhooks.invalid/v1" in done.stderr


def test_a_server_that_does_not_answer_is_told_with_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(chat_client, "_CONNECT_TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        done = ask("--url", url, stdin="hi\n", cwd=tmp_path)

    assert done.returncode == 1
    assert f"No answer from {url}/v1 within 0.1 s" in done.stderr


def test_tool_calls_without_numbers_are_shown(capsys):
    with AnswerPrinter(shows_reasoning=False) as printer:
        for index in (None, -1):
            call = {"index": index, "id": "1", "function": {"name": "look", "arguments": "{}"}}
            printer.add({"choices": [{"delta": {"tool_calls": [call]}}]})

    assert capsys.readouterr().err == "→ look({})\n" * 2


def test_a_loaded_message_without_content_is_saved_as_markdown(thinker, port, tmp_path):
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    (tmp_path / "c.json").write_text(json.dumps({"messages": [{"role": "assistant", "tool_calls": [call]}]}))
    done = ask(stdin="/load c.json\n/save c.md\n", cwd=tmp_path, port=port)

    assert done.returncode == 0
    assert '"look"' in (tmp_path / "c.md").read_text()


def test_a_file_of_a_user_that_there_is_not_is_told(thinker, port, tmp_path):
    done = ask(stdin="/load ~nobody-of-this-name/c.json\n", cwd=tmp_path, port=port)

    assert done.returncode == 1
    assert "Cannot read ~nobody-of-this-name/c.json" in done.stderr
