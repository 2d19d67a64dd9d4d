"""Pipelines in YAML on a live server: deployed, replaced, broken and repaired by their files."""

import os
from pathlib import Path

import pytest

from tests.live_server import ECHO, LiveServer, eventually, replace, serving
from tests.pipelines import ASK, CHAIN, DOUBLE, PARTS


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A directory of shared modules, with ``parts`` in it."""
    replace(tmp_path / "shared/parts.py", PARTS)
    return tmp_path / "shared"


@pytest.fixture
def server(root: Path, shared: Path):
    with serving(root, additional_python_path=str(shared)) as server:
        yield server


def serve(server: LiveServer, filename: str, content: str) -> None:
    """Write the file and wait until that revision serves."""
    name = filename.rpartition(".")[0]
    before = (server.state(name) or {}).get("revision")
    replace(server.root / filename, content)
    eventually(
        lambda: (state := server.state(name))["state"] == "serving" and state["revision"] != before,
        f"{name} to be served",
    )


def failure(server: LiveServer, name: str) -> str:
    error: str = eventually(lambda: server.state(name)["error"], f"a failure of {name}")
    return error


@pytest.mark.parametrize("filename", ["double.yml", "double.yaml"])
def test_a_file_is_deployed_replaced_and_undeployed(server: LiveServer, filename: str):
    serve(server, filename, DOUBLE)
    assert server.run("double", value=3) == {"double": {"value": 6}, "triple": {"value": 6}}
    assert server.state("double")["endpoints"] == ["/double/run"]

    serve(server, filename, DOUBLE.replace("  tripled: triple.value\n", ""))
    assert server.run("double", value=3) == {"double": {"value": 6}}

    (server.root / filename).unlink()
    eventually(lambda: server.client.post("/double/run", json={"value": 1}).status_code == 404)


def test_touching_it_or_writing_the_same_bytes_loads_nothing(server: LiveServer):
    serve(server, "double.yml", DOUBLE)
    serve(server, "other.yml", DOUBLE)
    generation, loaded_at = server.status()["generation"], server.state("double")["loaded_at"]
    os.utime(server.root / "double.yml", (1, 1))
    replace(server.root / "double.yml", DOUBLE)
    serve(server, "other.yml", CHAIN)

    assert server.state("double")["loaded_at"] == loaded_at
    assert server.status()["generation"] == generation + 1


def test_what_is_broken_names_its_line_and_the_last_good_revision_serves(server: LiveServer):
    serve(server, "double.yml", DOUBLE)
    file = server.root / "double.yml"
    replace(file, DOUBLE.replace("doubled: double.value", "doubled: dubble.value"))

    error = failure(server, "double")
    assert error.startswith("double.yml:15: outputs.doubled names 'dubble.value': there is no component 'dubble'")
    assert f"at {file}:15: doubled: dubble.value" in error
    assert server.state("double")["state"] == "stale"
    assert server.run("double", value=1) == {"double": {"value": 2}, "triple": {"value": 2}}
    replace(file, DOUBLE)
    eventually(lambda: server.state("double")["state"] == "serving")


def test_a_folder_and_a_file_of_one_name_or_two_files_clash(server: LiveServer):
    serve(server, "one.yml", DOUBLE)
    server.write("one", ECHO)
    assert failure(server, "one").startswith("one/ and one.yml both claim the name 'one'")
    server.remove("one")
    eventually(lambda: server.state("one")["state"] == "serving")
    replace(server.root / "one.yaml", DOUBLE)
    assert failure(server, "one").startswith("one.yaml and one.yml both claim the name 'one'")


@pytest.mark.parametrize("filename", [".hidden.yml", "_draft.yml", "double.yml.swp", "double.yml~", "#double.yml#"])
def test_hidden_files_drafts_and_leavings_are_none(server: LiveServer, filename: str):
    replace(server.root / filename, DOUBLE)
    serve(server, "double.yml", DOUBLE)

    assert server.status()["pipelines"] == ["double"]
    assert len(server.status()["deployments"]) == 1


OTHERS: dict[str, str | bytes] = {
    "docker-compose.yml": "services:\n  web:\n    image: nginx\n",
    "config.yaml": "database:\n  components: [a, b]\n",
    "list.yml": "- 1\n",
    "empty.yml": "",
    "many.yml": "kind: Service\n---\nkind: Deployment\n",
    "openapi.yaml": "openapi: 3.1.0\ncomponents:\n  schemas: {}\n",
    "action.yml": "name: x\ninputs: {}\noutputs: {}\nruns: {using: composite}\n",
    "broken.yml": "services: [\n",
    "tagged.yml": "secret: !vault |\n  abc\n",
    "latin.yml": b"name: caf\xe9\n",
}


def test_a_yaml_without_components_is_ignored_and_logged_once(server: LiveServer, logged: list[str]):
    for filename, content in OTHERS.items():
        (server.root / filename).write_bytes(content if isinstance(content, bytes) else content.encode())
    serve(server, "double.yml", DOUBLE)
    serve(server, "again.yml", DOUBLE)

    assert [entry["name"] for entry in server.status()["deployments"]] == ["again", "double"]
    for filename in OTHERS:
        lines = [line for line in logged if str(server.root / filename) in line]
        assert lines == [f"DEBUG {server.root / filename} is ignored: it has no key `components`, as a pipeline has"]


@pytest.mark.parametrize("content", ["[" * 200_000, "{a: " * 200_000, "- " * 200_000], ids=["list", "mapping", "items"])
def test_a_file_that_is_nested_without_end_harms_nothing(server: LiveServer, content: str):
    replace(server.root / "deep.yml", content)
    replace(server.root / "double.yml", DOUBLE)
    eventually(lambda: server.state("double")["state"] == "serving")
    replace(server.root / "deep.yml", "components: " + content)
    eventually(lambda: server.state("deep")["state"] == "failed")


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (DOUBLE.replace("components:", "component:"), "did you mean 'components' instead of 'component'?"),
        (DOUBLE.replace("components:", ".component:"), "did you mean 'components' instead of '.component'?"),
        (DOUBLE.replace("components:", "Components:"), "did you mean 'components' instead of 'Components'?"),
        ("components: {\n", "invalid YAML"),
        ('{"components": {"a": [}}', "invalid YAML"),
        ("# a comment\n'components' : x\n- y\n", "invalid YAML"),
    ],
)
def test_a_yaml_that_is_meant_as_a_pipeline_is_a_failure(server: LiveServer, content: str, error: str):
    replace(server.root / "meant.yml", content)

    assert error in failure(server, "meant")


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("a2a: 'off'", "wrong.yml:1: a2a must be true or false"),
        ("skip_mcp: 1", "wrong.yml:1: skip_mcp must be true or false"),
        ("skip_mpc: true", "wrong.yml:1: unknown key 'skip_mpc'; did you mean 'skip_mcp'?"),
        ("a2a_card: Desk", "wrong.yml:1: a2a_card must be a mapping"),
        ("a2a_card: {version: 1.0}", "a2a_card['version'] of the wrapper is 1.0: it must be a text"),
    ],
)
def test_a_wrong_option_for_agents_is_a_failure(server: LiveServer, line: str, error: str):
    replace(server.root / "wrong.yml", f"{line}\n{ASK}")
    assert error in failure(server, "wrong")


def test_a_pipeline_that_loses_its_components_keeps_serving(server: LiveServer):
    serve(server, "double.yml", DOUBLE)
    for content in ("", "services: {}\n"):
        replace(server.root / "double.yml", content)
        assert "not a pipeline: expected the key components" in failure(server, "double")
        assert server.run("double", value=3) == {"double": {"value": 6}, "triple": {"value": 6}}
    serve(server, "double.yml", CHAIN)


def test_a_folder_beside_a_yaml_of_its_name_that_is_none_is_served(server: LiveServer):
    replace(server.root / "chat.yml", "settings: {}\n")
    server.serve("chat", answer="fine ")
    replace(server.root / "chat.yml", "settings: {more: 1}\n")
    server.serve("chat", answer="still fine ")

    assert server.run("chat", text="x") == "still fine x"


@pytest.mark.parametrize("name", ["status", "docs"])
def test_a_name_of_a_route_is_refused(server: LiveServer, name: str):
    replace(server.root / f"{name}.yml", DOUBLE)

    assert f"the name {name!r} belongs to a route" in failure(server, name)


def test_a_link_that_is_flipped_is_a_change(server: LiveServer, tmp_path: Path):
    for version, content in (("1", DOUBLE), ("2", CHAIN)):
        replace(tmp_path / "versions" / version / "double.yml", content)
    os.symlink(tmp_path / "versions/1", server.root / "..data")
    os.symlink("..data/double.yml", server.root / "double.yml")
    eventually(lambda: server.run("double", value=1) == {"double": {"value": 2}, "triple": {"value": 2}})
    os.symlink(tmp_path / "versions/2", server.root / "..tmp")
    os.replace(server.root / "..tmp", server.root / "..data")

    eventually(lambda: server.run("double", value=1) == {"second": {"value": 4}})


def test_an_edit_of_a_shared_module_reloads_what_names_its_components(server: LiveServer, shared: Path):
    serve(server, "double.yml", DOUBLE)
    serve(server, "chain.yml", CHAIN)
    serve(server, "ask.yml", ASK)
    asks = server.state("ask")["loaded_at"]
    replace(shared / "parts.py", PARTS.replace("times: int = 2", "times: int = 5"))

    eventually(lambda: server.run("double", value=1) == {"double": {"value": 5}, "triple": {"value": 5}})
    eventually(lambda: server.run("chain", value=1) == {"second": {"value": 25}})
    assert server.state("ask")["loaded_at"] == asks

    replace(shared / "parts.py", "import nothing_of_this_name\n" + PARTS)
    assert "No module named 'nothing_of_this_name'" in failure(server, "double")
    assert server.run("double", value=1) == {"double": {"value": 5}, "triple": {"value": 5}}
    replace(shared / "parts.py", PARTS.replace("times: int = 2", "times: int = 7"))
    eventually(lambda: server.run("double", value=1) == {"double": {"value": 7}, "triple": {"value": 7}})


def test_untrusted_component_is_not_imported(server: LiveServer):
    """A component of an untrusted module is refused before it is imported."""
    replace(server.root / "bad.yml", "components:\n  bad:\n    type: antigravity.Component\n")

    error = failure(server, "bad")
    assert error.startswith(
        "bad.yml:3: component 'bad' has the type antigravity.Component, whose module is not trusted"
    )
    assert "HAYHOOKS_ADDITIONAL_PYTHON_PATH" in error
    assert "HAYSTACK_DESERIALIZATION_ALLOWLIST" in error


def test_a_file_that_cannot_be_read_is_a_failure(server: LiveServer):
    (server.root / "bad.yml").write_bytes(b"components:\n  \xff\n")

    assert "bad.yml:2: not valid UTF-8" in failure(server, "bad")


def test_pipelines_are_warmed_up_and_closed_as_those_of_folders(server: LiveServer, shared: Path, tmp_path: Path):
    log = tmp_path / "log"
    component = (
        "from haystack import component\n"
        f"def tell(what):\n    with open({str(log)!r}, 'a') as log: log.write(what + ' ')\n"
        "@component\nclass Warm:\n"
        "    def warm_up(self): tell('warm')\n"
        "    def close(self): tell('close')\n"
        "    @component.output_types(value=int)\n"
        "    def run(self, value: int): return {'value': value}\n"
    )
    replace(shared / "warm.py", component)
    content = "components: {w: {type: warm.Warm}}\ninputs: {value: w.value}\n"
    serve(server, "warm.yml", content)
    assert log.read_text() == "warm "
    assert server.run("warm", value=4) == {"w": {"value": 4}}

    (server.root / "warm.yml").unlink()
    eventually(lambda: log.read_text().endswith(" close "))  # before it the run has asked to be warm again


def test_a_hundred_loads_leave_nothing_behind(server: LiveServer):
    for number in range(20):
        serve(server, "double.yml", f"# {number}\n{DOUBLE}")

    eventually(lambda: server.status()["retired"] == [], "the replaced ones to be gone")
