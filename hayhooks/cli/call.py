"""``hayhooks pipeline run``: call a pipeline of the running server, and print its answer."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import click
import httpx

from hayhooks.cli.client import IS_IT_RUNNING, NoAnswerError, Server
from hayhooks.cli.options import refuse_long
from hayhooks.cli.output import CommandError, note, progress, say_json
from hayhooks.cli.server_sent_events import BrokenOffError, error_message, events, json_or_text
from hayhooks.settings import Settings

Upload = tuple[str, Path]  # the field of the form, "" if it is not given; the file or directory


@dataclass(frozen=True, slots=True)
class CallOptions:
    """Options of a call: the arguments to send, and the use of the answer."""

    arguments: Sequence[str]  # key=value
    files: Sequence[Upload]
    directories: Sequence[Upload]  # their files are sent too
    stream: bool
    output: Path | None
    timeout_s: float | None


def run(settings: Settings, name: str, call: CallOptions) -> int:
    """Call the pipeline *name* and print its result; one that has no ``/run`` is asked in a chat."""
    refuse_long(name)
    arguments = {}
    for argument in call.arguments:
        key, equals, value = argument.partition("=")
        if not key or not equals:
            raise click.UsageError(f"-p {argument}: expected key=value")
        arguments[key] = value
    files = list(call.files)
    for field, folder in call.directories:
        found = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
        if not found:
            raise click.UsageError(f"-d {folder}: the directory has no files")
        files += ((field, path) for path in found)
    server = Server(settings)
    url = f"{server.url}/{quote(name, safe='')}"
    try:
        with (
            server.http_client(call.timeout_s) as client,
            _body(arguments, _with_fields(server, name, files)) as body,
        ):
            run_url = f"{url}/run?stream=true" if call.stream else f"{url}/run"
            with _posted(client, run_url, name, call, body) as response:
                if response.is_success:
                    _print_answer(response, call)
                    return 0
                if response.status_code != 404 or not _can_only_chat(server, name):
                    raise CommandError(_error_text(response, arguments))
            if files:
                raise click.UsageError(f"{name!r} can only chat: it takes no files")
            with _posted(client, f"{url}/chat", name, call, {"json": _chat_body(name, arguments, call)}) as response:
                if not response.is_success:
                    raise CommandError(_error_text(response, arguments))
                _print_chat(response, call)
                return 0
    except NoAnswerError as error:
        raise CommandError(str(error)) from None


@contextmanager
def _posted(
    client: httpx.Client, url: str, name: str, call: CallOptions, body: Mapping[str, Any]
) -> Iterator[httpx.Response]:
    """Post *body*; yield the response, read if it is an error. No answer, or half of one, is a CommandError."""
    with ExitStack() as stack:
        try:
            with progress(f"Running {name}"):
                response = stack.enter_context(client.stream("POST", url, **body))
                if not response.is_success:
                    response.read()
        except httpx.TimeoutException:
            raise CommandError(f"No answer from {name} within {call.timeout_s:g} s (--timeout)") from None
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise CommandError(f"No answer from {url}: {reason}. {IS_IT_RUNNING}") from None
        reason = ""
        try:
            yield response
        except httpx.TimeoutException:
            reason = f"nothing came for {call.timeout_s:g} s (--timeout)"
        except (httpx.HTTPError, BrokenOffError) as error:
            reason = str(error) or type(error).__name__
        if reason:
            if sys.stdout.isatty():
                _print("\n")
            kept = f"; {call.output} holds what came" if call.output else ""
            raise CommandError(f"The answer of {name} broke off: {reason}{kept}")


# --------------------------------------------------------------------------------------------- what is sent


def _with_fields(server: Server, name: str, files: Sequence[Upload]) -> list[Upload]:
    """Give files without a field the one that *name* has for files."""
    if all(field for field, _ in files):
        return list(files)
    operations = (server.schema(name) or {}).get("operations", ())
    requests = [operation["request"] for operation in operations if operation["path"] == f"/{name}/run"]
    form = requests[0].get("multipart/form-data", {}) if requests else {}
    fields = [field for field, schema in form.get("properties", {}).items() if _is_file(schema)]
    if len(fields) > 1:
        raise click.UsageError(f"{name!r} takes files in {' and '.join(fields)}: name one, -f {fields[0]}=FILE")
    only = fields[0] if fields else "files"  # where it takes none, the server says so
    return [(field or only, path) for field, path in files]


def _is_file(schema: Mapping[str, Any]) -> bool:
    parts = (schema.get("items"), *schema.get("anyOf", ()))
    return schema.get("format") == "binary" or any(_is_file(part) for part in parts if part)


@contextmanager
def _body(arguments: Mapping[str, str], files: Sequence[Upload]) -> Iterator[dict[str, Any]]:
    """Yield httpx's arguments for the body: JSON, or a form with the files open."""
    if not files:
        yield {"json": {key: json_or_text(text) for key, text in arguments.items()}}
        return
    with ExitStack() as stack:
        parts: list[tuple[str, tuple[str, IO[bytes]]]] = []
        for field, path in files:
            try:
                parts.append((field, (path.name, stack.enter_context(path.open("rb")))))
            except OSError as error:
                raise CommandError(f"Cannot read {path}: {error.strerror}") from None
        yield {"data": arguments, "files": parts}


def _can_only_chat(server: Server, name: str) -> bool:
    endpoints = (server.state(name) or {}).get("endpoints", ())
    # What implements the Responses API alone answers chats too, without a mention of that.
    can_chat = f"/{name}/chat" in endpoints or f"/{name}/responses" in endpoints
    return can_chat and f"/{name}/run" not in endpoints


def _chat_body(name: str, arguments: Mapping[str, str], call: CallOptions) -> dict[str, Any]:
    """Return a chat completion's body: the arguments are its fields, ``message`` stands for the user's one message."""
    values = {key: json_or_text(text) for key, text in arguments.items() if key != "message"}
    if "message" in arguments:
        values["messages"] = [*values.get("messages", ()), {"role": "user", "content": arguments["message"]}]
    elif "messages" not in values:
        raise click.UsageError(
            f"{name!r} can only chat: ask with -p message=TEXT, or send a conversation with -p messages=JSON"
        )
    return {"model": name, "stream": call.stream, **values}


# ------------------------------------------------------------------------------------------- what is printed


def _error_text(response: httpx.Response, arguments: Mapping[str, str]) -> str:
    try:
        detail = response.json()["detail"]
    except (ValueError, LookupError, TypeError):
        return f"{response.url} answered {response.status_code} {response.reason_phrase}"
    if not isinstance(detail, list):
        return f"{detail} ({response.status_code})".replace("?stream=true", "--stream")
    problems = []
    for item in detail:
        if isinstance(item, dict):
            place = ".".join(str(part) for part in item.get("loc", [])[1:])
            text = arguments.get(place) if item.get("type") == "string_type" else None
            hint = f""" (to send text write -p '{place}="{text}"')""" if text else ""
            problems.append(f"{place}: {item.get('msg', 'is wrong')}{hint}".removeprefix(": "))
    return "; ".join(problems)


def _print_answer(response: httpx.Response, call: CallOptions) -> None:
    kind = _content_type(response)
    if call.output is not None:
        _write(response, call.output)
    elif kind == "text/event-stream":
        for data in events(response.iter_bytes()):
            _print(f"{data}\n")
    elif kind == "application/json":
        response.read()
        body = json_or_text(response.text)
        result = body["result"] if isinstance(body, dict) and body.keys() == {"result"} else body
        if isinstance(result, str):
            _print(f"{result}\n")
        else:
            say_json(result)
    elif kind.startswith("text/"):
        text = ""
        for text in response.iter_text():
            _print(text)
        _print("" if text.endswith("\n") else "\n")
    elif sys.stdout.isatty():
        raise CommandError(f"The answer is {kind or 'of unknown type'}, not text: write it to a file with -O FILE")
    else:
        for part in response.iter_bytes():
            sys.stdout.buffer.write(part)


def _print_chat(response: httpx.Response, call: CallOptions) -> None:
    if call.output is not None:
        _write(response, call.output)
    elif _content_type(response) == "text/event-stream":
        for data in events(response.iter_bytes()):
            if data == "[DONE]":
                break
            chunk = json_or_text(data)
            if not isinstance(chunk, dict) or "error" in chunk:
                raise BrokenOffError(error_message(data))
            for choice in chunk.get("choices") or ():
                _print(choice["delta"].get("content") or "")
                for tool_call in choice["delta"].get("tool_calls") or ():
                    note((f"The pipeline asks for {json.dumps(tool_call['function'])}", "dim"))
        else:
            raise BrokenOffError("its end is missing")
        _print("\n")
    else:
        response.read()
        answer = json_or_text(response.text)
        try:
            answer = answer["choices"][0]["message"]
            answer = answer["content"] or answer  # calls have no text
        except (TypeError, LookupError):  # a response of the wrapper's own
            pass
        if isinstance(answer, str):
            _print(f"{answer}\n")
        else:
            say_json(answer)


def _content_type(response: httpx.Response) -> str:
    return str(response.headers.get("content-type", "")).partition(";")[0]


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
