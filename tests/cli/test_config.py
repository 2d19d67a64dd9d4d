import json

import pytest

from tests.cli.commands import hayhooks
from tests.cli.processes import started


def test_config_tells_every_setting_with_its_source(tmp_path):
    (tmp_path / ".env").write_text("HAYHOOKS_HOST=file\nHAYHOOKS_PORT=1\nHAYHOOKS_ROOT_PATH=/file\n")
    result = hayhooks("config", "--json", "--port", "3", cwd=tmp_path, HOST="environment", PORT="2")
    told = json.loads(result.stdout)

    assert (result.returncode, result.stderr) == (0, "")
    assert told["HAYHOOKS_PORT"] == {"value": 3, "source": "command line"}
    assert told["HAYHOOKS_HOST"] == {"value": "environment", "source": "environment"}
    assert told["HAYHOOKS_ROOT_PATH"] == {"value": "/file", "source": ".env"}
    assert told["HAYHOOKS_WORKERS"] == {"value": 1, "source": "default"}
    shown = hayhooks("config", "--port", "3", cwd=tmp_path)
    lines = shown.stdout.splitlines()
    assert lines[0].split() == ["setting", "value", "source"]
    assert ["HAYHOOKS_PORT", "3", "command", "line"] in [line.split() for line in lines]
    assert len(lines) == 1 + len(told)
    assert shown.stderr == "Environment file: .env\n"


def test_config_tells_the_environment_file(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / ".env").write_text("HAYHOOKS_PORT=1\n")
    (tmp_path / "other").write_text("HAYHOOKS_PORT=2\n")

    none = hayhooks("config", cwd=tmp_path / "below", ENV_FILE="")
    above = hayhooks("config", cwd=tmp_path / "below")
    other = hayhooks("config", "--env-file", "../other", cwd=tmp_path / "below")
    missing = hayhooks("config", cwd=tmp_path, ENV_FILE="nowhere")

    assert none.stderr == "Environment file: none\n"
    for told, name, port in ((above, ".env", "1"), (other, "other", "2")):
        assert told.stderr == f"Environment file: {tmp_path}/{name}\n"
        assert ["HAYHOOKS_PORT", port, f"{tmp_path}/{name}"] in [line.split() for line in told.stdout.splitlines()]
    assert missing.returncode == 2
    assert missing.stderr.endswith("Error: Cannot read the environment file nowhere: No such file or directory\n")


def test_config_masks_secrets(tmp_path):
    for option in ([], ["--json"]):
        result = hayhooks("config", *option, cwd=tmp_path, API_KEYS="sesame,street", SSL_KEYFILE_PASSWORD="sesame")
        assert result.returncode == 0
        assert "sesame" not in result.stdout + result.stderr
        assert "***" in result.stdout


def test_config_says_all_that_is_wrong_and_ends_with_2(tmp_path):
    result = hayhooks("config", cwd=tmp_path, PORT="many", LOG_FORMAT="xml")

    assert result.returncode == 2
    assert "HAYHOOKS_PORT='many': must be an integer from 0 to 65535\n" in result.stderr
    assert "HAYHOOKS_LOG_FORMAT='xml': must be one of text, json\n" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("command", ["config", "run", "dev"])
def test_an_environment_file_that_is_no_text_is_told_in_a_line(tmp_path, command):
    (tmp_path / ".env").write_bytes(b"HAYHOOKS_HOST=\xff\xfe\n")
    result = hayhooks(command, cwd=tmp_path)

    assert result.returncode == 2
    assert f"Error: Cannot read {tmp_path}/.env as UTF-8 text" in result.stderr
    assert "Traceback" not in result.stderr


def test_config_warns_of_unknown_names(tmp_path):
    result = hayhooks("config", "--json", cwd=tmp_path, PROT="1")

    assert result.returncode == 0
    assert json.loads(result.stdout)
    assert result.stderr == "Warning: HAYHOOKS_PROT in the environment is not a setting; did you mean HAYHOOKS_PORT?\n"


@pytest.mark.parametrize("command", [["run"], ["run", "--workers", "2"], ["dev"]])
def test_what_serves_warns_of_unknown_names_once(tmp_path, command):
    (tmp_path / ".env").write_text("HAYHOOKS_WORKRES=2\n")
    with started(tmp_path, *command, PROT="1") as server:
        assert (
            server.output().count("HAYHOOKS_PROT in the environment is not a setting; did you mean HAYHOOKS_PORT?") == 1
        )
        assert server.output().count("HAYHOOKS_WORKRES in .env is not a setting; did you mean HAYHOOKS_WORKERS?") == 1
