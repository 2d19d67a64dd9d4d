"""``hayhooks pipeline run``: call ``POST /{name}/run`` of the running server."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import click
import httpx

from hayhooks.cli.client import NoAnswerError, Server
from hayhooks.cli.output import CommandError, note, progress, say_json
from hayhooks.settings import Settings


@dataclass(frozen=True, slots=True)
class CallOptions:
    """Options of a call: the arguments to send, and the use of the answer."""

    arguments: Sequence[str]  # key=value
    files: Sequence[Path]
    directories: Sequence[Path]  # their files are sent too
    stream: bool
    output: Path | None
    timeout_s: float | None


def run(settings: Settings, name: str, call: CallOptions) -> int:
    """Call the pipeline *name* and print its result."""
    arguments = {}
    for argument in call.arguments:
        key, equals, value = argument.partition("=")
        if not key or not equals:
            raise click.UsageError(f"-p {argument}: expected key=value")
        arguments[key] = value
    files = [*call.files, *(path for directory in call.directories for path in _files(directory))]
    server = Server(settings)
    url = f"{server.url}/{quote(name, safe='')}/run"
    try:
        verify = server.tls_context()
        with ExitStack() as stack:
            client = stack.enter_context(
                httpx.Client(
                    headers=server.headers(), verify=True if verify is None else verify, timeout=call.timeout_s
                )
            )
            body = stack.enter_context(_body(arguments, files))
            with progress(f"Running {name}") if not call.stream else ExitStack():
                response = stack.enter_context(client.stream("POST", url, **body))
                if not call.stream or response.is_error:
                    response.read()
            if response.is_error:
                raise CommandError(_error_text(response, arguments))
            _print_answer(response, call)
            return 0
    except NoAnswerError as error:
        raise CommandError(str(error)) from None
    except httpx.TimeoutException:
        raise CommandError(f"No answer from {name} within {call.timeout_s:g} s (--timeout)") from None
    except httpx.HTTPError as error:
        reason = str(error) or type(error).__name__
        raise CommandError(f"No answer from {url}: {reason}. Is `hayhooks run` running there?") from None


def _files(directory: Path) -> list[Path]:
    found = sorted(path for path in directory.rglob("*") if path.is_file() and not path.name.startswith("."))
    if not found:
        raise click.UsageError(f"-d {directory}: the directory has no files")
    return found


@contextmanager
def _body(arguments: dict[str, str], files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Yield httpx's arguments for the body: JSON, or a form with the files open."""
    if not files:
        values: dict[str, Any] = {}
        for key, text in arguments.items():
            try:
                values[key] = json.loads(text)
            except ValueError:
                values[key] = text
        yield {"json": values}
        return
    with ExitStack() as stack:
        parts: list[tuple[str, tuple[str, IO[bytes]]]] = []
        for path in files:
            try:
                parts.append(("files", (path.name, stack.enter_context(path.open("rb")))))
            except OSError as error:
                raise CommandError(f"Cannot read {path}: {error.strerror}") from None
        yield {"data": arguments, "files": parts}


def _error_text(response: httpx.Response, arguments: dict[str, str]) -> str:
    try:
        detail = response.json()["detail"]
    except (ValueError, LookupError, TypeError):
        return f"{response.url} answered {response.status_code} {response.reason_phrase}"
    if not isinstance(detail, list):
        return f"{detail} ({response.status_code})"
    problems = []
    for item in detail:
        if isinstance(item, dict):
            place = ".".join(str(part) for part in item.get("loc", [])[1:])
            text = arguments.get(place) if item.get("type") == "string_type" else None
            hint = f""" (to send text write -p '{place}="{text}"')""" if text else ""
            problems.append(f"{place}: {item.get('msg', 'is wrong')}{hint}".removeprefix(": "))
    return "; ".join(problems)


def _print_answer(response: httpx.Response, call: CallOptions) -> None:
    kind = response.headers.get("content-type", "").partition(";")[0]
    if call.output is not None:
        _write(response, call.output)
    elif kind == "text/event-stream":
        for line in response.iter_lines():
            if line.startswith("data:"):
                _print(line.removeprefix("data:").removeprefix(" ") + "\n")
    elif kind == "application/json":
        response.read()
        body = response.json()
        result = body["result"] if isinstance(body, dict) and body.keys() == {"result"} else body
        if isinstance(result, str):
            _print(f"{result}\n")
        else:
            say_json(result)
    elif kind.startswith("text/"):
        for text in response.iter_text():
            _print(text)
        _print("\n" if sys.stdout.isatty() else "")
    elif sys.stdout.isatty():
        raise CommandError(f"The answer is {kind or 'of unknown type'}, not text: write it to a file with -O FILE")
    else:
        sys.stdout.buffer.writelines(response.iter_bytes())


def _write(response: httpx.Response, path: Path) -> None:
    try:
        with path.open("wb") as file:
            size = sum(file.write(part) for part in response.iter_bytes())
    except OSError as error:
        raise CommandError(f"Cannot write {path}: {error.strerror}") from None
    note((f"Wrote {size:,} bytes to {path}.", "dim"))


def _print(text: str) -> None:
    click.echo(text, nl=False)
    sys.stdout.flush()
