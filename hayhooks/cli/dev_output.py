"""The output of ``hayhooks dev``: a line for each change and request, a few for each failure."""

import os
import re
import sys
from collections.abc import Iterable
from datetime import datetime
from inspect import iscoroutine
from pathlib import Path
from tempfile import mkstemp
from traceback import format_exception
from typing import Any

from rich.console import Console
from rich.text import Text

from hayhooks.errors import Place, fold, safe_str
from hayhooks.kernel.import_hints import import_hint
from hayhooks.kernel.isolation import current_deployment, with_public_names
from hayhooks.kernel.name_hints import name_hint
from hayhooks.kernel.places import OpenFiles
from hayhooks.kernel.state import Change, Deployment, Failure, Revision
from hayhooks.kernel.user_errors import cause_lines, headline, place_of
from hayhooks.observability.log import AGENT_LOGGERS, STDOUT, prefix_of, printable, writer_of
from hayhooks.observability.log_writer import QueuedStream
from hayhooks.observability.request_record import POLLED, RequestRecord, current_request
from hayhooks.observability.unawaited import UNAWAITED
from hayhooks.setting_types import share_text

_MAX_LINES = 14  # of a failure, in a terminal: with the line of its request 15
_CONTEXT_LINES = 2  # of the source, before and after the line that failed
_MAX_TEXT_LINES = 3  # of a message or a hint
_MAX_CAUSES = 3
# Errors contain texts of clients, and a terminal would obey their control characters: they are shown as symbols.
_CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"}
_CONTROLS |= {0x7F: 0x2421, **dict.fromkeys(range(0x80, 0xA0), 0xFFFD)}


_STYLES = {"ERROR": "red", "WARNING": "yellow"}


class DevOutput:
    """Prints to the terminal: no word is broken, and no failure takes more than 15 lines.

    Without a terminal nothing is wrapped or cut.
    """

    def __init__(self, *, tracebacks: bool = False, has_keys: bool = False) -> None:
        # A stream of its own: what a wrapper prints in setup begins with its name, and this is printed there too.
        self.console = Console(file=QueuedStream(writer_of(STDOUT)), highlight=False, soft_wrap=True)
        self._tracebacks = tracebacks  # whether they are printed, and not only kept
        self.has_keys = has_keys  # whether the key t calls `show_last_traceback`
        self._last_traceback = ""
        self._revisions: dict[str, Revision] = {}  # that serve, by name
        self._removed: dict[str, str] = {}  # the fingerprint and the name of what was removed last: it may be renamed
        self._unawaited: dict[RequestRecord, list[Any]] = {}  # entries that wait for the end of their request
        self._told_await: set[RequestRecord] = set()  # that have failed for the lack of an await
        self._file = ""  # in which the last traceback is kept for those who cannot press a key

    def show(self, text: str | Text, style: str = "", *, indent: int = 0) -> None:
        """Print *text*; the lines after the first are indented."""
        self.show_lines([text if isinstance(text, Text) else Text(text, style=style)], indent)

    def show_lines(self, lines: Iterable[Text], indent: int) -> None:
        """Print *lines*, with nothing of other threads between them; what is wrapped of one is indented."""
        self._print([fitted for line in lines for fitted in self._fitted(line, indent, sys.maxsize)])

    def show_change(self, change: Change) -> None:
        """Print what became of a save."""
        serving = change.serving
        match change.outcome:
            case Deployment(revision=revision) if revision.is_restored:
                self._revisions[change.name] = revision
                saved = "serves as it was saved: the files on disk do not, or not yet"
                self.show(_line("✓", "yellow", change.name, f"{revision.id}  {saved}"), indent=2)
            case Deployment() as canary if canary is not serving:
                share = f"gets {share_text(canary.canary)} of the requests as a canary"
                self.show(_line("✓", "yellow", change.name, f"{canary.revision.id}  {share}"), indent=2)
            case Deployment() as deployment:
                self._revisions[change.name] = deployment.revision
                was = self._removed.pop(deployment.revision.fingerprint, "")
                took = f"in {change.took_ms:.0f} ms"
                endpoints = "  ".join(f"POST {path}" for path in deployment.endpoints.paths)
                details = (
                    f"was {was}"
                    if was not in ("", change.name)
                    else ", ".join(change.files)
                    if change.files
                    else endpoints
                )
                self.show(_line("✓", "green", change.name, f"{deployment.revision.id}  {took}  {details}"), indent=2)
            case Failure() as failure if change.same_as:
                rest = f"as {change.same_as}" + (f"; {change.still}" if serving else "")
                self.show(_line("✗", "red", change.name, f"{failure.revision.id}  {rest}"), indent=2)
            case Failure() as failure:
                head = _line("✗", "red", change.name, f"{failure.revision.id}  {', '.join(change.files)}".rstrip())
                self._show_failure(
                    [*self._fitted(head, 2, 1), *self._fitted(Text(f"  {failure.reason}", style="red"), 2)],
                    causes=list(failure.causes),
                    place=failure.place,
                    hint=failure.hint,
                    traceback=failure.traceback,
                    subject=f"{change.name}, revision {failure.revision.id}",
                    last=f"  {change.still}" if serving else "",
                )
            case None if serving is None:
                if removed := self._revisions.pop(change.name, None):
                    self._removed = {removed.fingerprint: change.name}
                self.show(_line("-", "dim", change.name, "removed"))
            case None:
                self.show(_line("✓", "green", change.name, f"{serving.revision.id}  serves again"))

    def show_entry(self, message: Any) -> None:
        """Print an entry of the log: one with an exception, or a place, as a failing load."""
        record, exception = message.record, message.record["exception"]
        request: Any = current_request.get(None)
        error, place, text = exception and exception.value, record["extra"].get("place"), record["message"]
        of_request = request is not None and request.pipeline == record["extra"].get("pipeline")
        if of_request and record["extra"].get("event") == UNAWAITED and not request.ended_at:
            self._unawaited.setdefault(request, []).append(message)  # an error may say the same, and more
        elif error is not None or isinstance(place, Place):
            self._show_problem(record, error, request, place)
        else:
            style = _STYLES.get(record["level"].name, "")
            lines = [Text(f"  {line}", style=style) for line in f"{prefix_of(record)}{text}".splitlines()]
            # The wrapper's own.
            self._print([fitted for line in lines for fitted in self._fitted(line, 2, sys.maxsize)])

    def _show_problem(self, record: Any, error: BaseException | None, request: Any, place: Place | None) -> None:
        """Print an entry of the log with the *error*, or the *place*, that it has."""
        known = record["extra"].get("pipeline") or current_deployment()
        name = known or (request.pipeline if request is not None else "")
        text, reason, causes, hint, traceback = " ".join(record["message"].split()), "", [], "", ""
        if error is not None:
            fold(error)
            reason = with_public_names(" ".join(headline(error).split()))
            if text == " ".join(safe_str(error).split()):  # an Agent logs a tool's exception like this
                text, reason = reason, ""
            causes = [with_public_names(line) for line in cause_lines(error, OpenFiles())]
            place, hint = place_of(error, OpenFiles()), name_hint(error, OpenFiles())
            if not hint and (revision := self._revisions.get(name)):
                hint = import_hint(error, revision)
            traceback = with_public_names("".join(format_exception(error)))
        if "coroutine" in f"{text} {reason}" and request is not None and not request.ended_at:
            self._told_await.add(request)
            if iscoroutine(owner := getattr(error, "obj", None)):
                owner.close()  # or Python says so too
        if name and not text.startswith((f"{name}:", f"/{name}/")):
            text = f"{name}: {text}"
        style = _STYLES.get(record["level"].name, "")
        head = [*self._fitted(Text(f"✗ {text}", style=style), 2)]
        if reason and reason not in text:
            head += self._fitted(Text(f"  {reason}", style=style), 2)
        subject = ", ".join([*([name] if name else []), *([f"request {request.id}"] if request is not None else [])])
        goes_on = record["extra"].get("logger", "").startswith(AGENT_LOGGERS)
        last = "  the Agent goes on: its model is told" if goes_on else ""
        self._show_failure(head, causes=causes, place=place, hint=hint, traceback=traceback, subject=subject, last=last)

    def show_request(self, record: RequestRecord) -> None:
        """Print the line of a request, unless it is a probe, or of a command or the console that asks for the state."""
        for message in self._unawaited.pop(record, ()):
            if record not in self._told_await:
                self.show_entry(message)
        self._told_await.discard(record)
        if record.endpoint in ("/healthz", "/readyz") or (record.is_of_command and record.method == "GET"):
            return
        if record.endpoint == "/mcp" and record.status < 400:  # what its tools have called is printed
            return
        if record.is_of_page and record.endpoint in POLLED:
            return
        failed = record.error and record.status < 400  # after the status was sent
        style = "red" if failed or record.status >= 500 else "yellow" if record.status >= 400 else "dim"
        how = "cancelled after" if record.cancelled else "in"
        line = f"→ {record.method} {printable(record.path)}  {record.status}  {how} {record.took_s * 1000:.0f} ms"
        if record.pipeline and not f"{record.path}/".startswith(f"/{record.pipeline}/"):
            line += f"  model {printable(record.pipeline, 100)}"
        if failed:
            line += f"  failed in mid-stream: {record.error.partition(':')[0]}"
        elif record.problem and not record.error:
            line += f"  {record.problem}"
        self.show(line, style, indent=2)

    def show_last_traceback(self) -> None:
        """Print the whole traceback of the last failure."""
        self._print([Text(self._last_traceback or "No failure yet.", style="dim")])

    def _show_failure(
        self,
        head: list[Text],
        *,
        causes: list[str],
        place: Place | None,
        hint: str,
        traceback: str,
        subject: str,
        last: str,
    ) -> None:
        """Print a failure of *subject*: its source is shown with as many lines around it as there is room for."""
        if traceback:
            if place and (files := re.findall(r'^ +File "(.+)", line', traceback, re.M)) and files[-1] != place.file:
                traceback = f"{traceback.rstrip()}\n\nyour code: {place}"  # else only a library's frames are at the end
            self._last_traceback = f"{subject}, at {datetime.now():%H:%M:%S}\n".lstrip(", ") + traceback.rstrip()
        if len(causes) > _MAX_CAUSES:
            causes = [causes[0], f"... {len(causes) - 2} more ...", causes[-1]]
        most = 2 if len(causes) == 1 else 1
        lines = [line for cause in causes for line in self._fitted(Text(f"  {cause}", style="red"), 4, most)]
        end = self._fitted(Text(f"  hint: {hint}", style="cyan"), 4) if hint else []
        if traceback and not self._tracebacks:
            end += self._fitted(Text(f"  full traceback: {self._where_kept()}", style="dim"), 4)
        end += [Text(last, style="yellow")] if last else []
        path = self._fitted(Text(f"  {place.file}:{place.line}", style="bold"), 2) if place else []
        room = _MAX_LINES - sum(map(len, (head, lines, path, end)))
        told = " ".join([*(line.plain for line in head), hint])
        source = self._source(place, min(_CONTEXT_LINES, max(room - 1, 0) // 2), told) if place else []
        if traceback and self._tracebacks:
            end += [Text(f"  {text}", style="dim") for text in traceback.splitlines()]
        self._print([*head, *lines, *path, *source, *end])

    def _print(self, lines: list[Text]) -> None:
        text = Text("\n").join(lines)
        text.plain = text.plain.translate(_CONTROLS)
        self.console.print(text)  # at once: other threads print too

    def _where_kept(self) -> str:
        """Say where the last traceback can be read; without keys it is written to a file."""
        if self.has_keys:
            return "t + Enter"
        if not self._file:
            descriptor, self._file = mkstemp(prefix="hayhooks-dev-", suffix=".txt")
            os.close(descriptor)
        Path(self._file).write_text(self._last_traceback + "\n", encoding="utf-8", errors="backslashreplace")
        return self._file

    def _source(self, place: Place, around: int, told: str) -> list[Text]:
        """Return the line of *place*, as much of it as has the names that are *told*, and those *around* it."""
        lines = OpenFiles().lines(place.file)
        first = max(place.line - around, 1)
        shown = []
        for number, line in enumerate(lines[first - 1 : place.line + around], first):
            mark, style = (">", "") if number == place.line else (" ", "dim")
            head, code = f"  {mark} {number:>4} │ ", line.rstrip().expandtabs(4)
            text = Text(f"{head}{code}", style=style)
            if self.console.is_terminal:
                room = self.console.width - len(head)
                names = [re.search(rf"\b{name}\b", code) for name in re.findall(r"'(\w+)'", told)]
                end = max((found.end() for found in names if found), default=0)
                if number == place.line and end >= room:
                    text = Text(f"{head}…{code[end - room // 2 :]}", style=style)
                text.truncate(self.console.width, overflow="ellipsis")
            shown.append(text)
        return shown

    def _fitted(self, text: Text, indent: int, most: int = _MAX_TEXT_LINES) -> list[Text]:
        """Wrap *text* at words, the lines after the first indented, in a terminal; drop what exceeds *most* lines."""
        if not self.console.is_terminal:
            return [text]
        width = self.console.width
        lines: list[Text] = list(text.wrap(self.console, width, overflow="fold"))[:1]
        rest = text[len(lines[0].plain) :] if lines else Text()
        if rest.plain.strip():
            start = len(rest.plain) - len(rest.plain.lstrip())
            lines += rest[start:].wrap(self.console, width - indent, overflow="fold")
        for line in lines:
            line.rstrip()
        shown = [line if number == 0 else Text(" " * indent) + line for number, line in enumerate(lines)]
        if len(shown) > most:
            shown = shown[:most]
            shown[-1].truncate(width - 2, overflow="crop")
            shown[-1].append(" …")
        return shown


def _line(mark: str, style: str, subject: str, rest: str) -> Text:
    return Text.assemble((mark, style), " ", (subject, "bold"), "  ", rest)
