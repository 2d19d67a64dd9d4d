import json
import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from hayhooks.cli.settings_report import sources, unknown
from hayhooks.env_file import env_file
from hayhooks.setting_fields import accepted, problems
from hayhooks.settings import Settings, export_env_file

NAMES = {
    "HOST": ("0.0.0.0", "host", "0.0.0.0"),
    "PORT": ("8000", "port", 8000),
    "PIPELINES_DIR": ("there", "pipelines_dir", Path("there")),
    "ROOT_PATH": ("/x", "root_path", "/x"),
    "ADDITIONAL_PYTHON_PATH": ("/a", "additional_python_path", "/a"),
    "ADDITIONAL_PYTHONPATH": ("/a", "additional_python_path", "/a"),
    "USE_HTTPS": ("true", "use_https", True),
    "DISABLE_SSL": ("1", "disable_ssl", True),
    "SHOW_TRACEBACKS": ("yes", "show_tracebacks", True),
    "STREAMING_COMPONENTS": ("all", "streaming_components", "all"),
    "LOG": ("debug", "log", "DEBUG"),
    "LOG_LEVEL": ("Warning", "log", "WARNING"),
    "CORS_ALLOW_ORIGINS": ('["a", "b"]', "cors_allow_origins", ["a", "b"]),
    "CORS_ALLOW_METHODS": ("GET, POST", "cors_allow_methods", ["GET", "POST"]),
    "CORS_ALLOW_HEADERS": ("X-A", "cors_allow_headers", ["X-A"]),
    "CORS_ALLOW_CREDENTIALS": ("true", "cors_allow_credentials", True),
    "CORS_ALLOW_PRIVATE_NETWORK": ("true", "cors_allow_private_network", True),
    "CORS_ALLOW_ORIGIN_REGEX": (".*", "cors_allow_origin_regex", ".*"),
    "CORS_EXPOSE_HEADERS": ("X-A,X-B", "cors_expose_headers", ["X-A", "X-B"]),
    "CORS_MAX_AGE": ("10", "cors_max_age", 10),
    "GRACEFUL_SHUTDOWN_TIMEOUT": ("5", "graceful_shutdown_timeout", 5),
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_the_environment_sets_it(monkeypatch: pytest.MonkeyPatch, name: str):
    value, field, expected = NAMES[name]
    monkeypatch.setenv(f"HAYHOOKS_{name}", value)

    assert getattr(Settings(), field) == expected


def test_arguments_win_over_the_environment_over_the_file_over_the_default(monkeypatch: pytest.MonkeyPatch):
    Path(".env").write_text("HAYHOOKS_PORT=1\nHAYHOOKS_HOST=file\nHAYHOOKS_ROOT_PATH=/file\n")
    monkeypatch.setenv("HAYHOOKS_PORT", "2")
    monkeypatch.setenv("HAYHOOKS_HOST", "environment")
    settings = Settings(port=3)

    assert (settings.port, settings.host, settings.root_path, settings.workers) == (3, "environment", "/file", 1)


def test_another_process_reads_the_same_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    settings = Settings(port=3, cors_allow_origins=["a,b", "c"], show_tracebacks=True, additional_python_path="/a:/b")
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)

    assert Settings() == settings


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "many"), ("PORT", "70000"), ("WORKERS", "0"), ("LOG", "loud"), ("CORS_ALLOW_ORIGINS", "[1")],
)
def test_what_does_not_fit_is_told_by_name_and_value(monkeypatch: pytest.MonkeyPatch, name: str, value: str):
    monkeypatch.setenv(f"HAYHOOKS_{name}", value)
    with pytest.raises(ValidationError) as raised:
        Settings()

    (problem,) = problems(Settings, raised.value)
    assert problem.startswith(f"HAYHOOKS_{name}=")
    assert value in problem.lower() or json.dumps(value) in problem


def test_the_python_path_is_split_and_absolute():
    assert Settings(additional_python_path="/a:b").python_path == ["/a", str(Path("b").absolute())]


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("PORT", "many", "HAYHOOKS_PORT='many': must be an integer from 0 to 65535"),
        ("WORKERS", "0", "HAYHOOKS_WORKERS='0': must be an integer of at least 1"),
        ("ACCESS_LOG", "maybe", "HAYHOOKS_ACCESS_LOG='maybe': must be true or false"),
        ("LOG_LEVEL", "loud", "HAYHOOKS_LOG_LEVEL='LOUD': must be one of TRACE, DEBUG, INFO, SUCCESS, WARNING,"),
        ("LOG_FORMAT", "xml", "HAYHOOKS_LOG_FORMAT='xml': must be one of text, json"),
        ("MAX_BODY_SIZE", "big", "HAYHOOKS_MAX_BODY_SIZE='big': must be a size such as 100MiB, or a number of bytes"),
        ("ALLOWED_HOSTS", "[a", "HAYHOOKS_ALLOWED_HOSTS='[a': must be a list, as JSON ("),
        ("ALLOWED_HOSTS", '{"a": 1}', "HAYHOOKS_ALLOWED_HOSTS={'a': 1}: must be a list, as JSON ("),
        ("ROOT_PATH", "ai", "HAYHOOKS_ROOT_PATH='ai': must be a path that begins with a slash"),
        ("CANARY_SLOWDOWN", "0.5", "HAYHOOKS_CANARY_SLOWDOWN='0.5': must be 0, or a number from 1 on"),
        ("CANARY_SLOWDOWN", "inf", "HAYHOOKS_CANARY_SLOWDOWN='inf': must be 0, or a number from 1 on"),
        ("CANARY_SLOWDOWN", "much", "HAYHOOKS_CANARY_SLOWDOWN='much': must be 0, or a number from 1 on"),
        ("CORS_ALLOW_ORIGIN_REGEX", "(", "HAYHOOKS_CORS_ALLOW_ORIGIN_REGEX='(': must be a regular expression"),
    ],
)
def test_a_wrong_value_is_told_with_what_is_accepted(monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str):
    monkeypatch.setenv(f"HAYHOOKS_{name}", value)
    with pytest.raises(ValidationError) as raised:
        Settings()

    assert problems(Settings, raised.value)[0].startswith(told)


def test_every_setting_says_what_it_accepts():
    assert all(accepted(Settings, field) for field in Settings.model_fields)


def test_a_secret_is_in_no_message(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HAYHOOKS_API_KEYS", '["sesame", 1')
    with pytest.raises(ValidationError) as raised:
        Settings()

    assert problems(Settings, raised.value)[0].startswith("HAYHOOKS_API_KEYS='***': must be a list")
    assert "sesame" not in "".join([*problems(Settings, raised.value), str(raised.value)])
    assert "sesame" not in repr(Settings(api_keys=["sesame"], ssl_keyfile_password="sesame"))


def test_a_long_value_is_cut(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HAYHOOKS_PORT", "9" * 3_000)
    with pytest.raises(ValidationError) as raised:
        Settings()

    assert len(problems(Settings, raised.value)[0]) < 300


def test_environment_wins_over_file_in_any_spelling(monkeypatch: pytest.MonkeyPatch):
    """The second spelling in the environment wins over the first in the file."""
    Path(".env").write_text("HAYHOOKS_LOG=DEBUG\nHAYHOOKS_ADDITIONAL_PYTHON_PATH=/file\n")
    monkeypatch.setenv("HAYHOOKS_LOG_LEVEL", "ERROR")
    monkeypatch.setenv("HAYHOOKS_ADDITIONAL_PYTHONPATH", "/environment")

    assert (Settings().log, Settings().additional_python_path) == ("ERROR", "/environment")
    assert sources()["log"] == sources()["additional_python_path"] == "environment"


def test_the_environment_file_is_the_nearest_from_the_working_directory_upwards(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    (tmp_path / "a/b/.env").mkdir(parents=True)  # a virtual environment is no environment file
    (tmp_path / ".env").write_text("HAYHOOKS_PORT=1\n")
    (tmp_path / "other.env").write_bytes(b"\xef\xbb\xbfHAYHOOKS_PORT=3\n")  # as editors of Windows write it
    monkeypatch.chdir(tmp_path / "a/b")

    assert (env_file(), Settings().port) == (tmp_path / ".env", 1)
    (tmp_path / "a/.env").write_text("HAYHOOKS_PORT=2\n")
    assert (env_file(), Settings().port) == (tmp_path / "a/.env", 2)
    monkeypatch.setenv("HAYHOOKS_ENV_FILE", str(tmp_path / "other.env"))
    assert (Settings().port, sources()["port"]) == (3, str(tmp_path / "other.env"))
    monkeypatch.setenv("HAYHOOKS_ENV_FILE", "")
    assert (env_file(), Settings().port) == (None, 1416)
    assert unknown() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_an_environment_file_of_a_stranger_counts_in_the_working_directory_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    (tmp_path / "below").mkdir()
    (tmp_path / ".env").write_text("HAYHOOKS_PORT=1\n")
    os.chown(tmp_path / ".env", 1234, 1234)

    assert Settings().port == 1
    monkeypatch.chdir(tmp_path / "below")
    assert Settings().port == 1416
    os.chown(tmp_path / "below", 1234, 1234)  # whose directory we work in is trusted
    assert Settings().port == 1


def test_variables_of_the_environment_file_are_exported_unless_they_are_set(monkeypatch: pytest.MonkeyPatch):
    Path(".env").write_text(
        "OURS_A=file\nexport OURS_B='${OURS_A} too'\nOURS_C\nHAYHOOKS_LOG=DEBUG\nHAYHOOKS_PORT=1\nHAYHOOKS_HOST=file\n"
    )
    monkeypatch.setattr(os, "environ", {"OURS_A": "set", "HAYHOOKS_LOG_LEVEL": "ERROR", "hayhooks_port": "2"})

    export_env_file()

    assert os.environ == {
        "OURS_A": "set",
        "OURS_B": "file too",
        "HAYHOOKS_LOG_LEVEL": "ERROR",
        "hayhooks_port": "2",
        "HAYHOOKS_HOST": "file",
    }


@pytest.mark.parametrize(
    ("file", "environment", "level", "source"),
    [
        ("", {"LOG": "debug"}, "DEBUG", "environment"),
        ("", {"LOG_LEVEL": "error", "LOG": "/var/log/mine"}, "ERROR", "environment"),
        ("", {"LOG": "1"}, "INFO", "default"),
        ("LOG=debug", {}, "DEBUG", ".env"),
        ("LOG=debug", {"LOG_LEVEL": "error"}, "ERROR", "environment"),
        ("HAYHOOKS_LOG_LEVEL=warning", {"LOG": "debug"}, "WARNING", ".env"),
        ("LOG=debug", {"HAYHOOKS_LOG": "error", "LOG": "debug"}, "ERROR", "environment"),
    ],
)
def test_the_log_level_without_prefix_counts_last(monkeypatch: pytest.MonkeyPatch, file, environment, level, source):
    Path(".env").write_text(file)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert (Settings().log, sources()["log"]) == (level, source)
    assert Settings(log="TRACE").log == "TRACE"


def test_unknown_names_are_told_with_the_nearest_right_one(monkeypatch: pytest.MonkeyPatch):
    Path(".env").write_text("hayhooks_log_formt=json\nHAYHOOKS_PORT=1\nOTHER=1\n")
    monkeypatch.setenv("HAYHOOKS_PROT", "1")
    monkeypatch.setenv("HAYHOOKS_SOMETHING_ELSE_ENTIRELY", "1")
    monkeypatch.setenv("_HAYHOOKS_WORKERS", "/internal")

    assert unknown() == [
        "HAYHOOKS_PROT in the environment is not a setting; did you mean HAYHOOKS_PORT?",
        "HAYHOOKS_SOMETHING_ELSE_ENTIRELY in the environment is not a setting; `hayhooks config` lists them",
        "HAYHOOKS_LOG_FORMT in .env is not a setting; did you mean HAYHOOKS_LOG_FORMAT?",
    ]


def test_who_asks_for_settings_in_code_is_told_the_same(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HAYHOOKS_PORT", "many")
    with pytest.raises(ValidationError) as raised:
        Settings()

    assert raised.value.__notes__ == ["HAYHOOKS_PORT='many': must be an integer from 0 to 65535"]
