"""The client of ``hayhooks chat``: any server with the OpenAI API."""

from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any
from urllib.parse import SplitResult, quote, urlsplit

import click
import httpx

from hayhooks.cli.chat_answer import AnswerPrinter
from hayhooks.cli.client import IS_IT_RUNNING, NoAnswerError, Server
from hayhooks.cli.output import CommandError, progress
from hayhooks.cli.server_sent_events import BrokenOffError, error_message, events, json_or_text
from hayhooks.settings import Settings

_CONNECT_TIMEOUT_S = 10


class ChatClient:
    """The chat completions of one server; every failure is a ``CommandError``."""

    def __init__(self, http: httpx.Client, url: str) -> None:
        self._http = http
        self.url = url

    def models(self) -> list[str]:
        """Return the names of the models; empty if the server does not list any."""
        try:
            response = self._http.get(f"{self.url}/models", timeout=_CONNECT_TIMEOUT_S)
        except httpx.HTTPError as error:
            raise CommandError(self._no_answer(error)) from None
        if response.status_code == 404:
            return []
        body = json_or_text(response.text)
        if not response.is_success or not isinstance(body, dict) or not isinstance(body.get("data"), list):
            raise CommandError(self._refusal(response))
        return [entry["id"] for entry in body["data"] if isinstance(entry, dict) and isinstance(entry.get("id"), str)]

    def state(self, name: str) -> str:
        """Return the state of the deployment *name*; "" if the server has none, or is no hayhooks server."""
        try:
            response = self._http.get(
                f"{self.url.removesuffix('/v1')}/status/{quote(name, safe='')}", timeout=_CONNECT_TIMEOUT_S
            )
        except (httpx.HTTPError, UnicodeError):
            return ""
        body = json_or_text(response.text)
        return str(body.get("state", "")) if isinstance(body, dict) else ""

    def ask(self, model: str, messages: list[dict[str, Any]], printer: AnswerPrinter) -> None:
        """Send the conversation, and give each part of the answer to *printer* while it arrives."""
        body = {"model": model, "messages": messages, "stream": True, "stream_options": {"include_usage": True}}
        with printer:
            try:
                with progress(f"Waiting for {model}"):
                    request = self._http.build_request("POST", f"{self.url}/chat/completions", json=body)
                    response = self._http.send(request, stream=True)
            except httpx.HTTPError as error:
                raise CommandError(self._no_answer(error)) from None
            try:
                self._print(response, printer)
            except (httpx.HTTPError, BrokenOffError) as error:
                raise CommandError(f"The answer of {model} broke off: {str(error) or type(error).__name__}") from None
            finally:
                response.close()

    def _print(self, response: httpx.Response, printer: AnswerPrinter) -> None:
        printer.begin(response.headers.get("x-hayhooks-revision", ""))
        if not response.is_success:
            response.read()
            raise CommandError(self._refusal(response))
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            response.read()  # a server, or a wrapper's own response, that does not stream
            printer.add_whole(json_or_text(response.text))
            return
        for data in events(response.iter_bytes()):
            if data == "[DONE]":
                return
            chunk = json_or_text(data)
            if not isinstance(chunk, dict) or "error" in chunk:
                raise BrokenOffError(error_message(data))
            printer.add(chunk)
        if not printer.answer.finish_reason:  # some servers end without [DONE]
            raise BrokenOffError("its end is missing")

    def _no_answer(self, error: httpx.HTTPError) -> str:
        if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
            limit_s = error.request.extensions["timeout"]["read"]
            option = " (--timeout)" if limit_s == self._http.timeout.read else ""
            return f"No answer from {self.url} within {limit_s:g} s{option}"
        return f"No answer from {self.url}: {str(error) or type(error).__name__}. {IS_IT_RUNNING}"

    def _refusal(self, response: httpx.Response) -> str:
        body = json_or_text(response.text)
        if isinstance(body, dict) and ("error" in body or "detail" in body):
            reason = error_message(response.text) if "error" in body else str(body["detail"])
        else:
            reason = f"{response.url} answered {response.reason_phrase or 'with no OpenAI object'}"
        key = ": set HAYHOOKS_API_KEYS, or --api-key" if response.status_code == 401 else ""
        return f"{reason} ({response.status_code}){key}"


@contextmanager
def connected(
    settings: Settings, *, url: str | None, api_key: str | None, timeout_s: float | None
) -> Iterator[ChatClient]:
    """Yield a client of the server in *settings*, or of the one at *url*.

    The key of the settings goes to *url* only with https, or on this machine; *api_key* goes to any. A proxy of the
    environment is used only for https to another machine.
    """
    try:
        if url is None:
            server = Server(settings)
            base, headers, is_other = f"{server.url}/v1", server.headers(), False
        else:
            parts = _checked(url)
            is_here = _is_this_machine(parts.hostname or "")
            path = parts.path.rstrip("/")
            base = parts._replace(path=path if path.endswith("/v1") else f"{path}/v1").geturl()
            server = Server(settings.model_copy(update={"use_https": parts.scheme == "https", "ssl_certfile": None}))
            is_other = parts.scheme == "https" and not is_here
            keys = settings.valid_keys() if is_here or is_other else ()
            headers = {"Authorization": f"Bearer {keys[0].key}"} if keys else {}
        context = server.tls_context()
    except NoAnswerError as error:
        raise CommandError(str(error)) from None
    if api_key is not None:
        headers["Authorization"] = f"Bearer {api_key}"
    with httpx.Client(
        headers=headers,
        verify=True if context is None else context,
        timeout=httpx.Timeout(timeout_s, connect=_CONNECT_TIMEOUT_S),
        trust_env=is_other,
    ) as http:
        yield ChatClient(http, base)


def _checked(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        is_complete = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_complete = False
    if not is_complete or parts.query or parts.fragment or parts.username:
        raise click.UsageError(f"--url {url}: expected the address of a server, as http://127.0.0.1:1416")
    return parts


def _is_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
