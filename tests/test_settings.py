import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from hayhooks.settings import Settings, problems

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

    (problem,) = problems(raised.value)
    assert problem.startswith(f"HAYHOOKS_{name}=")
    assert value in problem.lower() or json.dumps(value) in problem


def test_the_python_path_is_split_and_absolute():
    assert Settings(additional_python_path="/a:b").python_path == ["/a", str(Path("b").absolute())]
