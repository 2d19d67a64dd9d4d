"""The printed answer of ``hayhooks chat``: text to stdout, all else to stderr, each on lines of its own."""

import json
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import click

from hayhooks.cli.output import Cell, note, printable, say_json
from hayhooks.errors import shortened

_MAX_EVENT = 200  # characters of an event's data that are shown


@dataclass(slots=True)
class Answer:
    """What a model has answered so far."""

    content: str = ""
    reasoning: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)  # as in a message's tool_calls
    finish_reason: str = ""

    def message(self) -> dict[str, Any]:
        """Return it as a message of the conversation."""
        message: dict[str, Any] = {"role": "assistant", "content": self.content}
        return {**message, "tool_calls": self.calls} if self.calls else message


class AnswerPrinter:
    """Print one answer while it arrives. The reasoning is folded to a line, unless it is to be shown."""

    def __init__(self, shows_reasoning: bool) -> None:
        self.answer = Answer()
        self._shows_reasoning = shows_reasoning
        self._began = time.monotonic()
        self._thinks_since: float | None = None
        self._is_in_line = False  # the cursor is behind text
        self._sources: list[str] = []
        self._usage: dict[str, Any] = {}
        self._revision = ""

    def begin(self, revision: str) -> None:
        """Note the deployment's *revision*; "" where the server has none."""
        self._revision = revision

    def add(self, chunk: dict[str, Any]) -> None:
        """Print one ``chat.completion.chunk``."""
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            reasoning = delta.get("reasoning_content") or delta.get("reasoning")
            if isinstance(reasoning, str):
                self._add_reasoning(reasoning)
            if content := delta.get("content"):
                self._add_text(content if isinstance(content, str) else json.dumps(content))
            for part in delta.get("tool_calls") or ():
                self._add_call(part)
            self.answer.finish_reason = choice.get("finish_reason") or self.answer.finish_reason
        if isinstance(chunk.get("event"), dict):
            self._add_event(chunk["event"])
        if isinstance(chunk.get("usage"), dict):
            self._usage = chunk["usage"]

    def add_whole(self, body: Any) -> None:
        """Print a ``chat.completion``, or any other body as it is."""
        if isinstance(body, dict) and isinstance(body.get("choices"), list):
            for event in body.get("events") or ():
                self._add_event(event)
            choices = [{**choice, "delta": choice.get("message")} for choice in body["choices"]]
            self.add({**body, "choices": choices})
        elif isinstance(body, str):
            self._add_text(body)
        else:
            say_json(body)

    def __enter__(self) -> "AnswerPrinter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> None:
        """Print what is known only at the end, also of an answer that broke off."""
        self._fold_reasoning()
        self._end_line()
        for call in self.answer.calls:
            self._line(("→ ", "cyan"), (f"{call['function']['name']}({call['function']['arguments']})", "cyan"))
        for number, source in enumerate(self._sources, 1):
            self._line((f"[{number}] {source}", "dim"))
        if isinstance(error, KeyboardInterrupt):
            self._line(("stopped", "yellow"))
        elif error is None and sys.stderr.isatty():
            tokens = self._usage.get("prompt_tokens"), self._usage.get("completion_tokens")
            facts = [f"{time.monotonic() - self._began:.1f} s", self._revision]
            facts += [f"{tokens[0]} + {tokens[1]} tokens"] if any(tokens) else []
            reason = self.answer.finish_reason
            facts += [f"ended by {reason}"] if reason not in ("", "stop", "tool_calls") else []
            self._line(("  ".join(fact for fact in facts if fact), "dim"))

    def _add_text(self, text: str) -> None:
        self._fold_reasoning()
        self.answer.content += text
        click.echo(printable(text) if sys.stdout.isatty() else text, nl=False)
        sys.stdout.flush()
        self._is_in_line = not text.endswith("\n")

    def _add_reasoning(self, text: str) -> None:
        self.answer.reasoning += text
        if self._shows_reasoning:
            self._end_line() if self._thinks_since is None else None
            click.secho(printable(text), nl=False, dim=True, err=True)
        elif self._thinks_since is None and sys.stderr.isatty():
            self._end_line()
            click.secho("· thinking", nl=False, dim=True, err=True)
        self._thinks_since = self._thinks_since or time.monotonic()

    def _fold_reasoning(self) -> None:
        """Replace "thinking" by a line that says how long it took."""
        if self._thinks_since is None:
            return
        if self._shows_reasoning:
            note()
        else:
            took, words = time.monotonic() - self._thinks_since, len(self.answer.reasoning.split())
            back = "\r\x1b[K" if sys.stderr.isatty() else ""
            click.echo(back, nl=False, err=True)
            note((f"· thought for {took:.1f} s, {words} words (/reasoning prints them)", "dim"))
        self._thinks_since = None

    def _add_call(self, part: dict[str, Any]) -> None:
        """Add a tool call, or more of the arguments of one."""
        calls, function = self.answer.calls, part.get("function") or {}
        index = part.get("index")
        if not isinstance(index, int) or not 0 <= index < len(calls):  # some servers number none
            calls.append({"id": part.get("id"), "type": "function", "function": {"name": "", "arguments": ""}})
            index = len(calls) - 1
        calls[index]["function"]["name"] += function.get("name") or ""
        calls[index]["function"]["arguments"] += function.get("arguments") or ""

    def _add_event(self, event: dict[str, Any]) -> None:
        """Show an event as open-webui does, as far as a terminal can."""
        data = event.get("data")
        data = data if isinstance(data, dict) else {}
        match event.get("type"):
            case "message":
                self._add_text(str(data.get("content", "")))
            case "replace":
                self._line(("the answer is replaced by", "dim"))
                self.answer.content = ""
                self._add_text(str(data.get("content", "")))
            case "status":
                if not data.get("hidden"):
                    self._line((f"· {data.get('description', '')}", "dim"))
            case "notification":
                style = {"error": "red", "warning": "yellow", "success": "green"}.get(str(data.get("type")), "cyan")
                self._line((f"! {data.get('content', '')}", style))
            case "source" | "citation":
                self._sources.append(_source_name(data))
            case "tool_call_end":
                result = str(data.get("result", ""))
                self._line((f"← {data.get('name', '')}: {shortened(' '.join(result.split()), _MAX_EVENT)}", "dim"))
            case kind:
                self._line((f"· {kind}: {json.dumps(data, ensure_ascii=False)[:_MAX_EVENT]}", "dim"))

    def _line(self, *parts: Cell) -> None:
        self._fold_reasoning()
        self._end_line()
        note(*parts)

    def _end_line(self) -> None:
        if self._is_in_line:
            click.echo()
            self._is_in_line = False


def _source_name(data: dict[str, Any]) -> str:
    """Return the name of the source, and of its documents where they have others."""
    source = data.get("source")
    name = (
        str(source.get("name") or source.get("url") or source.get("id") or "")
        if isinstance(source, dict)
        else str(source or "")
    )
    metadata = data.get("metadata")
    entries = metadata if isinstance(metadata, list) else [metadata]
    names = [str(entry.get("name") or entry.get("source") or "") for entry in entries if isinstance(entry, dict)]
    others = [each for each in dict.fromkeys(names) if each and each != name]
    return " ".join([name, *(["(" + ", ".join(others) + ")"] if others and name else others)]).strip() or "a source"
