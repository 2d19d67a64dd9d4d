"""TLS files, and what is checked and said before and when a server starts."""

import subprocess
from pathlib import Path

import httpx
import pytest
import trustme

from hayhooks import Settings
from hayhooks.cli.status import status
from hayhooks.http.access import log_exposure
from tests.cli.commands import hayhooks
from tests.cli.processes import hayhooks as in_a_process
from tests.cli.processes import started
from tests.live_server import ECHO, eventually, replace
from tests.logs import logged
from tests.network import free_port


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(authority: trustme.CA, tmp_path: Path) -> tuple[Path, Path, Path]:
    """Certificate chain, private key, and the authority's certificate."""
    issued = authority.issue_cert("127.0.0.1", "localhost")
    certfile, keyfile, cafile = tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "ca.pem"
    for blob in issued.cert_chain_pems:
        blob.write_to_path(certfile, append=True)
    issued.private_key_pem.write_to_path(keyfile)
    authority.cert_pem.write_to_path(cafile)
    return certfile, keyfile, cafile


@pytest.mark.parametrize("command", [["run"], ["run", "--workers", "2"], ["dev"]])
def test_it_serves_tls(tmp_path: Path, files: tuple[Path, Path, Path], command: list[str]):
    certfile, keyfile, cafile = files
    replace(tmp_path / "pipelines/echo/pipeline_wrapper.py", "ANSWER = 'echo '\n" + ECHO)
    arguments = [*command, "--ssl-certfile", str(certfile), "--ssl-keyfile", str(keyfile)]
    with started(tmp_path, *arguments, cafile=cafile) as server:
        answer = server.post("/echo/run", {"text": "x"})

        assert answer.json() == {"result": "echo x"}
        with pytest.raises(httpx.HTTPError):
            httpx.get(server.url.replace("https", "http") + "/status")
        assert command != ["dev"] or f"https://127.0.0.1:{server.port}/status" in server.output()
        settings = Settings(port=server.port, use_https=True, disable_ssl=True)
        eventually(lambda: status(settings, as_json=True) == 0, "all workers to serve the same")


def test_a_command_that_does_not_know_of_tls_says_how_to_tell_it(tmp_path: Path, files: tuple[Path, Path, Path]):
    certfile, keyfile, cafile = files
    arguments = ["run", "--ssl-certfile", str(certfile), "--ssl-keyfile", str(keyfile)]
    with started(tmp_path, *arguments, cafile=cafile) as server:
        by_http = hayhooks("status", cwd=tmp_path, PORT=str(server.port))
        by_https = hayhooks("status", cwd=tmp_path, PORT=str(server.port), USE_HTTPS="true")
        trusting = hayhooks("status", cwd=tmp_path, PORT=str(server.port), SSL_CERTFILE=str(certfile))

    assert "If it serves TLS, set HAYHOOKS_USE_HTTPS=true" in by_http.stderr
    assert "Set HAYHOOKS_SSL_CERTFILE to a certificate to trust" in by_https.stderr
    assert trusting.returncode == 0, trusting.stderr


def test_it_serves_tls_with_a_key_that_has_a_password_and_both_in_one_file(
    tmp_path: Path, files: tuple[Path, Path, Path]
):
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - trustme brings it

    certfile, keyfile, cafile = files
    key = serialization.load_pem_private_key(keyfile.read_bytes(), None)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"open sesame"),
    )
    certfile.write_bytes(encrypted + certfile.read_bytes())
    with started(tmp_path, "run", cafile=cafile, SSL_CERTFILE=str(certfile), SSL_KEYFILE_PASSWORD="open sesame") as it:
        assert it.get("/healthz").status_code == 200
        assert "sesame" not in it.output()

    for password in ("", "wrong"):
        refused = in_a_process("run", cwd=tmp_path, PORT="0", SSL_CERTFILE=str(certfile), SSL_KEYFILE_PASSWORD=password)
        assert refused.returncode == 1
        assert "HAYHOOKS_SSL_KEYFILE_PASSWORD is wrong or missing" in refused.stderr


@pytest.mark.parametrize(
    ("certfile", "keyfile", "reason"),
    [
        ("missing.pem", "key.pem", "HAYHOOKS_SSL_CERTFILE=missing.pem: No such file or directory"),
        ("cert.pem", "missing.pem", "HAYHOOKS_SSL_KEYFILE=missing.pem: No such file or directory"),
        ("cert.pem", ".", "HAYHOOKS_SSL_KEYFILE=.: Is a directory"),
        ("cert.pem", "other.pem", "the private key in other.pem does not belong to it"),
        ("cert.pem", "", "in PEM format"),
        ("ca.pem", "junk", "in PEM format"),
        ("junk", "key.pem", "in PEM format"),
        ("", "key.pem", "HAYHOOKS_SSL_CERTFILE must be set too"),
    ],
)
def test_files_that_cannot_be_used_stop_the_start_with_one_line(
    tmp_path: Path,
    files: tuple[Path, Path, Path],
    authority: trustme.CA,
    certfile: str,
    keyfile: str,
    reason: str,
):
    authority.issue_cert("localhost").private_key_pem.write_to_path(tmp_path / "other.pem")
    (tmp_path / "junk").write_text("junk")
    # `dev` checks before it changes anything in the process; `run`, by the same function, needs one of its own.
    called = [(hayhooks, "dev"), *([(in_a_process, "run")] if keyfile == "other.pem" else [])]
    for call, command in called:
        port = str(free_port())
        result = call(command, "--port", port, cwd=tmp_path, SSL_CERTFILE=certfile, SSL_KEYFILE=keyfile)
        _stopped_with_one_line(result, reason)
        assert not (tmp_path / "pipelines").exists()


def _stopped_with_one_line(result: subprocess.CompletedProcess[str], reason: str) -> None:
    assert result.returncode == 1
    assert result.stderr.startswith("Error: HAYHOOKS_SSL_")
    assert (reason in result.stderr, result.stderr.count("\n"), result.stdout) == (True, 1, "")


@pytest.mark.parametrize("command", [["run"], ["run", "--workers", "2"], ["dev"]])
def test_keys_that_cannot_be_read_stop_the_start_with_one_line(tmp_path: Path, command: list[str]):
    call = hayhooks if command == ["dev"] else in_a_process
    result = call(*command, cwd=tmp_path, API_KEYS_FILE="nowhere", PORT="0")

    assert (result.returncode, result.stderr) == (
        1,
        "Error: HAYHOOKS_API_KEYS_FILE=nowhere: No such file or directory\n",
    )


def test_invalid_keys_stop_the_start(tmp_path: Path):
    """Keys in the environment that are none stop the start and are not shown."""
    result = hayhooks("run", cwd=tmp_path, API_KEYS="a secret")

    assert result.returncode == 2
    assert "HAYHOOKS_API_KEYS='***': must be a list" in result.stderr
    assert "secret" not in result.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
def test_every_worker_wants_the_key_and_no_process_shows_it(tmp_path: Path, workers: str):
    with started(tmp_path, "run", "--workers", workers, forks=False, API_KEYS="the-key") as server:
        for _ in range(10):
            assert server.get("/status").status_code == 401
            with_key = httpx.get(server.url + "/status", headers={"Authorization": "Bearer the-key"}, timeout=60)
            assert with_key.status_code == 200
        titles = [file.read_bytes() for file in Path("/proc").glob("[0-9]*/cmdline") if _readable(file)]
        assert not [title for title in titles if b"the-key" in title]
        assert "the-key" not in server.output()


def _readable(file: Path) -> bool:
    try:
        return bool(file.read_bytes())
    except OSError:  # the process has ended
        return False


def said(**settings: object) -> list[str]:
    """What is said when a server starts, with its level."""
    with logged() as lines:
        log_exposure(Settings(_env_file=None, **settings))
    return lines


def test_a_wildcard_for_browsers_is_said_aloud_and_louder_with_credentials():
    assert said() == [
        "INFO Any website may read responses in its visitors' browsers (HAYHOOKS_CORS_ALLOW_ORIGINS is *)"
    ]
    assert said(api_keys=["x"]) == []  # which a website does not have
    (line,) = said(cors_allow_credentials=True)
    assert line.startswith("WARNING Any website may call with its visitors' cookies")
    assert said(cors_allow_origins=["https://a.example"], cors_allow_credentials=True) == []


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.1", "example.com"])
def test_a_server_that_others_can_reach_without_a_key_is_said_aloud(host: str, tmp_path: Path):
    origins = {"cors_allow_origins": ["https://a.example"]}
    (line,) = said(host=host, **origins)
    assert line.startswith(f"WARNING Anyone who can reach {host}:1416 may call every pipeline")
    (tmp_path / "keys").write_text("x\n")
    assert (
        said(host=host, api_keys=["x"], **origins) == said(host=host, api_keys_file=tmp_path / "keys", **origins) == []
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_one_that_only_this_machine_can_reach_is_not(host: str):
    assert said(host=host, cors_allow_origins=[]) == []


def test_tracebacks_in_answers_are_said_aloud():
    assert "HAYHOOKS_SHOW_TRACEBACKS" in said(show_tracebacks=True, cors_allow_origins=[])[0]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_it_is_said_once_however_many_workers_there_are(tmp_path: Path, workers: str):
    with started(tmp_path, "run", "--workers", workers) as server:
        eventually(lambda: "Application startup complete" in server.output())
        assert server.output().count("Any website may read responses") == 1
