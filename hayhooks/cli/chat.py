"""``hayhooks chat``: talk to a model of the running server, or of any other with the OpenAI API."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from hayhooks.cli.chat_answer import Answer, AnswerPrinter
from hayhooks.cli.chat_client import ChatClient, connected
from hayhooks.cli.output import CommandError, note, say
from hayhooks.cli.server_sent_events import json_or_text
from hayhooks.settings import Settings

_HISTORY_LINES = 1000
_MULTILINE = '"""'


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """Options of the command ``chat``."""

    url: str | None  # of another server
    api_key: str | None
    system: str
    history: Path  # the file of the lines that were typed
    timeout_s: float | None


class _Quit(Exception):  # noqa: N818 - no error
    """The end that was asked for."""


def chat(settings: Settings, name: str | None, options: ChatOptions) -> int:
    """Send each line to the model *name*, and print its answers; return the exit status.

    In a terminal an error is printed and the chat goes on; in a pipe it ends with exit status 1.
    """
    with connected(settings, url=options.url, api_key=options.api_key, timeout_s=options.timeout_s) as client:
        lines = _TypedLines(options.history) if _is_interactive() else _PipedLines()
        model = _model(client, name, lines)
        if _is_interactive():
            say((model, "bold"), (f" at {client.url}. /help lists the commands, Ctrl+D ends.", "dim"))
        return _Chat(client, lines, model, options.system).run()


def _is_interactive() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _model(client: ChatClient, name: str | None, lines: "_TypedLines | _PipedLines") -> str:
    """Return *name* if the server has it, or its only model, or ask which one."""
    names = client.models()
    if name is not None:
        return _known(client, name, names)
    if not names:
        raise CommandError(f"Nothing at {client.url} can chat: see `hayhooks status`")
    if len(names) > 1 and not _is_interactive():
        raise CommandError(f"{client.url} has {len(names)} models: name one of {', '.join(names)}")
    if len(names) == 1:
        return names[0]
    say("Models: ", (", ".join(names), "bold"))
    while True:
        try:
            if answer := lines.read("model> ").strip():
                return _known(client, answer, names)
        except CommandError as error:
            note((error.format_message(), "red"))
        except (EOFError, KeyboardInterrupt):
            raise click.exceptions.Exit(0) from None


def _known(client: ChatClient, name: str, names: list[str]) -> str:
    """Return *name* if it is one of *names*, the server's models, or if the server does not list them."""
    if name in names:
        return name
    listed = f"these do: {', '.join(names)}" if names else "nothing at this server does"
    match client.state(name):
        case "serving" | "stale":
            raise CommandError(
                f"{name} does not chat: a wrapper needs run_chat_completion, YAML the key chat; {listed}"
            )
        case "failed" | "loading" as state:
            raise CommandError(f"{name} does not serve, it is {state}: see `hayhooks status`")
    if not names:
        return name
    close = get_close_matches(name, names, n=1)
    advice = f": did you mean {close[0]}?" if close else f"; it has {', '.join(names)}"
    raise CommandError(f"The server has no model {name!r}{advice}")


def _in_utf8(read: Callable[[], str]) -> str:
    try:
        line = read()
        line.encode()  # some locales let other bytes through
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise CommandError(f"Standard input is not UTF-8: {error.object[error.start : error.end]!r}") from None
    return line


class _PipedLines:
    """Lines of a pipe or a file; prompts are not shown."""

    def read(self, prompt: str) -> str:
        """Return the next line; ``EOFError`` after the last one."""
        line = _in_utf8(sys.stdin.readline)
        if not line:
            raise EOFError
        return line.rstrip("\r\n")


class _TypedLines:
    """Lines that are typed in a terminal, with editing and a history file that only its owner can read."""

    def __init__(self, history: Path) -> None:
        self._history = history
        self._readline: Any = None
        with suppress(ImportError):  # some builds of Python are without it
            import readline  # noqa: PLC0415 - changes how input() reads

            self._readline = readline
            readline.set_history_length(_HISTORY_LINES)
            try:
                history.parent.mkdir(parents=True, exist_ok=True)
                os.close(os.open(history, os.O_CREAT | os.O_RDONLY, 0o600))
                readline.read_history_file(history)
            except OSError as error:
                self._say_lost(error)

    def read(self, prompt: str) -> str:
        """Return the next line, and add it to the history; ``EOFError`` at Ctrl+D."""
        line = _in_utf8(lambda: input(prompt))
        if self._readline is not None and line.strip():
            try:
                self._readline.write_history_file(self._history)
            except OSError as error:
                self._say_lost(error)
        return line

    def _say_lost(self, error: OSError) -> None:
        note((f"The history is not kept: {self._history}: {error.strerror}", "yellow"))
        self._readline = None


class _Chat:
    """One conversation: what is said, and the commands on it."""

    def __init__(self, client: ChatClient, lines: _TypedLines | _PipedLines, model: str, system: str) -> None:
        self._client = client
        self._lines = lines
        self._model = model
        self._system = system
        self._messages: list[dict[str, Any]] = []  # without the system's
        self._shows_reasoning = False
        self._last = Answer()
        self._commands: dict[str, tuple[str, Callable[[str], None]]] = {
            "/model": ("/model [NAME]        name the models, or change to NAME", self.model),
            "/system": ("/system [TEXT]       set the system message; without TEXT remove it", self.system),
            "/retry": ("/retry               ask the last question again, as after a save", self.retry),
            "/reasoning": (
                "/reasoning [on|off]  print the reasoning of the last answer; of all from now on",
                self.reasoning,
            ),
            "/clear": ("/clear               begin a new conversation", self.clear),
            "/save": ("/save FILE           write the conversation as JSON, or as Markdown to FILE.md", self.save),
            "/load": ("/load FILE           go on with a conversation that was saved as JSON", self.load),
            "/help": ('/help                print this; """ begins and ends a message of several lines', self.help),
            "/quit": ("/quit                end; so does Ctrl+D. Ctrl+C stops an answer", self.quit),
        }

    def run(self) -> int:
        """Read and answer until the end of the input."""
        while True:
            try:
                self.obey(self.read_message())
            except (EOFError, _Quit):
                if _is_interactive():
                    say()
                return 0
            except KeyboardInterrupt:
                if not _is_interactive():
                    raise
                say()
            except CommandError as error:
                if not _is_interactive():
                    raise
                note((error.format_message(), "red"))

    def read_message(self) -> str:
        text = self._lines.read("> ")
        if not text.lstrip().startswith(_MULTILINE):
            return text.strip()
        text = text.lstrip().removeprefix(_MULTILINE)
        while not text.rstrip().endswith(_MULTILINE):
            text += "\n" + self._lines.read("... ")
        return text.rstrip().removesuffix(_MULTILINE).strip("\n")

    def obey(self, text: str) -> None:
        command, _, argument = text.partition(" ")
        if command in self._commands:
            self._commands[command][1](argument.strip())
        elif command in ("/exit", "/bye"):
            raise _Quit
        elif command.startswith("/") and command[1:].isalpha():
            close = get_close_matches(command, self._commands, n=1)
            raise CommandError(f"There is no {command}: " + (f"did you mean {close[0]}?" if close else "see /help"))
        elif text:
            while self._messages and (self._messages[-1]["role"] != "assistant" or "tool_calls" in self._messages[-1]):
                self._messages.pop()  # a question without an answer, or a call without its result
            self._ask({"role": "user", "content": text})

    def _ask(self, *messages: dict[str, Any]) -> None:
        """Send *messages*, print the answer, and ask for the results of tools until the model calls no more."""
        while messages:
            self._messages.extend(messages)
            system = [{"role": "system", "content": self._system}] if self._system else []
            printer = AnswerPrinter(self._shows_reasoning)
            try:
                self._client.ask(self._model, [*system, *self._messages], printer)
            finally:
                self._last = printer.answer
                if printer.answer.content or printer.answer.calls:  # also the part before an error or Ctrl+C
                    self._messages.append(printer.answer.message())
            messages = tuple(self.results_of(printer.answer))

    def results_of(self, answer: Answer) -> Iterator[dict[str, Any]]:
        for call in answer.calls:
            text = self._lines.read(f"result of {call['function']['name']}> ")
            yield {"role": "tool", "tool_call_id": call["id"], "content": text}

    # Commands, each with the rest of its line as argument.

    def model(self, name: str) -> None:
        names = self._client.models()
        if name:
            self._model = _known(self._client, name, names)
        for each in sorted({*names, self._model}):
            note("* " if each == self._model else "  ", (each, "bold" if each == self._model else ""))

    def system(self, text: str) -> None:
        self._system = text

    def retry(self, _: str) -> None:
        last = next((i for i, message in reversed([*enumerate(self._messages)]) if message["role"] == "user"), None)
        if last is None:
            raise CommandError("There is no question yet")
        question = self._messages[last]
        del self._messages[last:]
        self._ask(question)

    def reasoning(self, switch: str) -> None:
        if switch in ("on", "off"):
            self._shows_reasoning = switch == "on"
        elif switch:
            raise CommandError(f"/reasoning {switch}: expected on, off, or nothing")
        else:
            note((self._last.reasoning or "The last answer has no reasoning.", "dim"))

    def clear(self, _: str) -> None:
        self._messages.clear()

    def save(self, file: str) -> None:
        path = _path(file, "/save")
        conversation = {"model": self._model, "system": self._system, "messages": self._messages}
        as_json = json.dumps(conversation, indent=2, ensure_ascii=False) + "\n"
        try:
            path.write_text(self._as_markdown() if path.suffix == ".md" else as_json, encoding="utf-8")
        except OSError as error:
            raise CommandError(f"Cannot write {path}: {error.strerror}") from None
        note((f"Wrote {len(self._messages)} messages to {path}", "dim"))

    def _as_markdown(self) -> str:
        titled = [("system", self._system)] if self._system else []
        for message in self._messages:
            calls = "".join(
                f"\n\n```json\n{json.dumps(call['function'])}\n```" for call in message.get("tool_calls", ())
            )
            titled.append((message["role"], f"{message.get('content') or ''}{calls}".strip()))
        return f"# {self._model}\n\n" + "\n\n".join(f"## {role}\n\n{text}" for role, text in titled) + "\n"

    def load(self, file: str) -> None:
        path = _path(file, "/load")
        try:
            saved = json_or_text(path.read_text(encoding="utf-8"))
            messages = [{**message} for message in saved["messages"] if message["role"]]
            self._system = str(saved.get("system") or "")
        except OSError as error:
            raise CommandError(f"Cannot read {path}: {error.strerror}") from None
        except (ValueError, TypeError, LookupError, AttributeError):
            raise CommandError(f"{path} is no conversation that /save has written as JSON") from None
        self._messages = messages
        note((f"Read {len(messages)} messages from {path}", "dim"))

    def help(self, _: str) -> None:
        for usage, _function in self._commands.values():
            say(usage)

    def quit(self, _: str) -> None:
        raise _Quit


def _path(file: str, command: str) -> Path:
    if not file:
        raise CommandError(f"{command} FILE: the name of the file is missing")
    return Path(os.path.expanduser(file))  # unlike Path's it leaves ~ before a name that no user has
