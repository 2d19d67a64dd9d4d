"""With the fast protocol off uvicorn's h11 protocol serves: what clients rely on holds there too."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from hayhooks import Settings
from hayhooks.server.config import server_options
from hayhooks.server.plain_protocol import PlainHttpProtocol
from tests.cli.test_run import (  # noqa: F401 - pytest finds them here
    test_a_signal_stops_it_cleanly,
    test_every_worker_serves_what_lies_there,
    test_open_streams_end_before_it_stops_and_everything_is_torn_down,
    test_what_outlives_the_graceful_time_does_not_keep_it,
)
from tests.deployment.test_stopping import (  # noqa: F401 - as above
    pipelines,
    test_answers_while_stopping_close_the_connection,
    test_nobody_is_let_in_while_the_last_answers_are_given,
    test_what_was_asked_before_the_server_knew_that_it_stops_is_answered,
    test_workers_are_renewed_on_sighup_and_no_request_fails,
)
from tests.endpoints.test_run import (  # noqa: F401 - as above
    test_a_client_that_goes_away_stops_the_work_and_the_log_says_so,
    test_a_slow_reader_is_felt_by_the_generator,
    test_a_stream_that_raises_at_once_is_500_and_later_is_cut,
    test_an_sse_stream_is_sent_as_events,
    test_generators_stream_as_text,
)
from tests.faults.test_slow_clients import (  # noqa: F401 - as above
    ASK,
    HEAD,
    sends_until_cut,
    test_a_body_that_keeps_coming_may_take_longer_than_the_limit,
    test_a_body_that_pauses_for_too_long_is_a_408_that_names_the_limit,
    test_a_connection_on_which_nothing_comes_is_closed,
    test_a_connection_that_is_used_outlives_the_limit,
    test_a_websocket_is_not_ended_by_the_limit,
    test_an_answer_may_take_longer_than_the_limit,
    test_an_upload_that_pauses_for_too_long_is_a_408,
    test_connection_survives_an_early_answer,
    test_headers_byte_by_byte_are_ended,
    test_headers_for_ever_are_ended_by_their_size,
    test_many_bodies_that_pause_are_each_ended_in_their_time,
    test_the_second_request_of_a_connection_is_bounded_as_the_first,
)
from tests.live_server import ECHO, LiveServer, SharedServer, eventually, replace, serving
from tests.openai.test_both_apis import (  # noqa: F401 - as above
    test_a_client_that_goes_away_cancels_async_work,
    test_a_client_that_goes_away_stops_a_sync_pipeline_at_its_next_chunk,
    test_the_bytes_on_the_wire_are_those_that_clients_split,
)
from tests.openai.test_chat import (  # noqa: F401 - as above
    test_an_error_in_mid_stream_is_an_event_and_no_finish,
    test_every_kind_of_method_answers_whole_and_streamed,
)


@pytest.fixture(scope="module", autouse=True)
def _fast_protocol_off() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HAYHOOKS_FAST_PROTOCOL", "false")
        yield


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    root = tmp_path_factory.mktemp("pipelines")
    replace(root / "echo/pipeline_wrapper.py", "ANSWER = 'echo '\n" + ECHO)
    with serving(root, read_timeout=1) as running:
        eventually(lambda: running.status()["pipelines"])
        server = SharedServer(running.app, running.root, running.url)
        with server.client:
            yield server


def test_the_setting_chooses_the_protocol(server: LiveServer):
    assert server_options(server.app.settings)["http"].func is PlainHttpProtocol


@pytest.mark.parametrize(
    ("version", "is_plain"), [("0.34.0", True), ("0.53.1", False), ("0.54.0", False), ("0.540.0", True)]
)
def test_other_versions_of_uvicorn_use_h11(
    monkeypatch: pytest.MonkeyPatch, logged: list[str], tmp_path: Path, version: str, is_plain: bool
):
    """Other versions of uvicorn are served with h11 and the log says so once."""
    monkeypatch.setattr(uvicorn, "__version__", version)
    options = server_options(Settings(pipelines_dir=tmp_path, fast_protocol=True, _env_file=None))

    assert (options["http"].func is PlainHttpProtocol) == is_plain
    assert sum(f"uvicorn {version} is not among" in line for line in logged) == is_plain


def test_headers_that_are_too_large_are_refused(server: LiveServer):
    with server.connected() as connection:
        connection.sendall(HEAD + b"X-A: " + b"a" * 200_000 + b"\r\n\r\n")
        assert _received(connection).startswith(b"HTTP/1.1 400 ")


def test_requests_sent_at_once_are_all_answered(server: LiveServer):
    with server.connected() as connection:
        connection.sendall(ASK * 5)
        received = b""
        while received.count(b"200 OK") < 5:
            received += connection.recv(65536)


@pytest.mark.parametrize("protocol", ["h2c", "foo"])
def test_an_unknown_upgrade_is_ignored(server: LiveServer, protocol: str):
    with server.connected() as connection:
        connection.sendall(
            ASK.replace(b"\r\n\r\n", f"\r\nConnection: upgrade\r\nUpgrade: {protocol}\r\n\r\n".encode(), 1)
        )
        assert b"200 OK" in connection.recv(65536)


def test_an_invalid_websocket_handshake_is_a_400(server: LiveServer):
    with server.connected() as connection:
        connection.sendall(b"GET /echo/run HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert _received(connection).startswith(b"HTTP/1.1 400 ")


def _received(connection: socket.socket) -> bytes:
    received = b""
    try:
        while data := connection.recv(65536):
            received += data
    except ConnectionResetError:
        pass
    return received
