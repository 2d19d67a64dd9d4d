"""Ray Serve: applications from configuration files on a cluster of one node, through Ray's proxy."""

import importlib.util
import itertools
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.integrations import ray_cluster
from tests.integrations.ray_cluster import METRICS, URL, Cluster
from tests.live_server import replace
from tests.wrappers import source

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason='Ray is not installed: pip install "ray[serve]"'
    ),
    pytest.mark.skipif("PYTEST_XDIST_WORKER" in os.environ, reason="one cluster is enough: scripts/test --ray"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a network for Ray"),
    pytest.mark.timeout(400),
]

_numbers = itertools.count()
ROOT = Path(__file__).parent.parent.parent


class Served:
    """The application on the cluster, and its pipelines directory."""

    def __init__(self, cluster: Cluster, root: Path, shape: str) -> None:
        self.cluster = cluster
        self.client = cluster.client
        self.root = root
        self.shape = shape
        self.left = root.parent / "left"  # where wrappers leave files

    def deploy(self, **arguments: Any) -> None:
        """Deploy the application, or other arguments of it."""
        options = {"num_replicas": 2 if self.shape == "replicated" else 1, "num_cpus": 0.1}
        defaults = {"pipelines_dir": str(self.root), "shape": self.shape, "ray_options": options}
        self.cluster.deploy(**defaults | arguments)

    def write(self, name: str = "it", *, version: int = 1, problem: str = "", **options: Any) -> None:
        """Write the wrapper *name*; each time it is another revision."""
        constants = {"FOLDER": str(self.left), "VERSION": version, "PROBLEM": problem, "OPTIONS": options}
        head = "".join(f"{constant} = {value!r}\n" for constant, value in constants.items())
        replace(self.root / name / "pipeline_wrapper.py", f"{head}{source('on_ray')}\n# {next(_numbers)}\n")

    def run(self, name: str = "it", **arguments: Any) -> dict[str, Any]:
        """The result of ``/{name}/run``."""
        result: dict[str, Any] = self.client.post(f"/{name}/run", json=arguments).raise_for_status().json()["result"]
        return result

    def status(self) -> Any:
        return self.client.get("/status").raise_for_status().json()

    def entry(self, name: str) -> Any:
        return {entry["name"]: entry for entry in self.status()["deployments"]}[name]

    def replicas(self, deployment: str = "hayhooks/hayhooks") -> list[dict[str, Any]]:
        return [each for each in self.status()["replicas"] if each["ray_deployment"] == deployment]

    def kill(self, deployment: str, application: str = "hayhooks") -> None:
        """Kill a replica that runs, of a deployment of Ray's."""

        def running() -> list[int]:
            replicas = self.cluster.applications()[application]["deployments"][deployment]["replicas"]
            return [replica["pid"] for replica in replicas if replica["state"] == "RUNNING"]

        self.cluster.run("kill", "-9", str(self.eventually(running, "a replica to run")[0]))

    def processes(self, name: str, number: int) -> set[int]:
        """The process ids of the *number* replicas that answer for *name*."""
        found: set[int] = set()

        def all_seen() -> bool:
            found.add(self.run(name)["pid"])
            return len(found) >= number

        self.cluster.eventually(all_seen, f"{number} processes to answer")
        return found

    def eventually(self, condition: Callable[[], Any], what: str) -> Any:
        return self.cluster.eventually(condition, what)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with ray_cluster.running() as running:
        yield running


@pytest.fixture(scope="module", params=["replicated", "per_pipeline"])
def served(
    cluster: Cluster, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """The application in one of its two shapes; tests of one of them choose it."""
    served = Served(cluster, tmp_path_factory.mktemp(request.param) / "pipelines", request.param)
    served.left.mkdir()
    served.write(num_cpus=0.1)
    served.deploy()
    cluster.wait_until("RUNNING")
    yield served
    cluster.run("serve", "shutdown", "--yes")
    cluster.eventually(lambda: not cluster.applications(), "the applications to be deleted")


replicated = pytest.mark.parametrize("served", ["replicated"], indirect=True)
per_pipeline = pytest.mark.parametrize("served", ["per_pipeline"], indirect=True)


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_the_files_that_are_shown_are_as_ray_and_hayhooks_describe_them() -> None:
    from ray.serve.schema import ServeDeploySchema

    from hayhooks.integrations.ray import RayOptions, hayhooks_app

    page = (ROOT / "docs/scaling.md").read_text()
    kuberay = yaml.safe_load((ROOT / "examples/deployment/kuberay.yaml").read_text())
    shown = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    for text in (*shown, kuberay["spec"]["serveConfigV2"]):
        (application,) = ServeDeploySchema.model_validate(yaml.safe_load(text)).applications
        assert application.import_path == "hayhooks.integrations.ray:hayhooks_app"
        hayhooks_app(RayOptions.model_validate(application.args))
    for text in re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        exec(text.replace("class PipelineWrapper(BasePipelineWrapper)", "class PipelineWrapper"), {})
    table = page[page.index("| option | default | meaning |") : page.index("The address is Ray's")]
    rows = re.findall(r"^\| `(\w+)` \| (.*) \| (.*) \|$", table, re.MULTILINE)
    fields = RayOptions.model_fields.items()
    defaults = {name: field.get_default(call_default_factory=True) for name, field in fields}
    assert rows == [
        (name, f"`{defaults[name]}`" if defaults[name] else "", str(field.description)) for name, field in fields
    ]


def test_a_setting_that_there_is_not_is_refused() -> None:
    from hayhooks.integrations.ray import RayOptions

    with pytest.raises(ValueError, match="api_key"):
        RayOptions(settings={"api_key": "0123456789"})  # without it anyone could call


def test_requests_have_one_id_and_the_revision(served: Served) -> None:
    answer = served.client.post("/it/run", json={"text": "hello"}, headers={"X-Request-Id": "mine"})

    assert answer.json()["result"]["text"] == "hello"
    assert answer.headers.get_list("x-request-id") == ["mine"]
    assert answer.headers.get_list("x-hayhooks-revision") == [served.entry("it")["revision"]]


def test_errors_are_those_of_one_machine(served: Served) -> None:
    assert served.client.post("/it/run", json={"wait_s": "long"}).status_code == 422
    assert served.client.post("/nothing/run", json={}).json()["detail"].startswith("there is no pipeline 'nothing'")
    unknown = served.client.post(
        "/v1/chat/completions", json={"model": "gone", "messages": [{"role": "user", "content": "hi"}]}
    )
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
    wrong = served.client.post("/v1/chat/completions", json={"model": "it", "messages": "hi"})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "messages")


@pytest.mark.parametrize("name", ["ünï.::x", "n" * 150])
def test_names_need_not_be_such_as_ray_takes(served: Served, name: str) -> None:
    served.write(name, num_cpus=0.1)
    served.eventually(lambda: served.run(name)["pid"], "it to be served")
    served.write(name, version=2, num_cpus=0.1)  # Ray goes on
    served.eventually(lambda: served.run(name)["version"] == 2, "the change to be served")
    shutil.rmtree(served.root / name)
    served.eventually(lambda: served.client.post(f"/{name}/run", json={}).status_code == 404, "it to be gone")


def test_headers_for_browsers_are_those_of_one_machine(served: Served) -> None:
    for headers, allowed in (({"Origin": "https://elsewhere.example"}, ["*"]), ({}, [])):
        answer = served.client.post("/it/run", json={}, headers=headers)
        assert answer.headers.get_list("access-control-allow-origin") == allowed
        assert answer.headers.get_list("vary", split_commas=True) == ["Origin"]


def test_a_body_that_is_announced_as_too_large_is_not_read(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", 8000), timeout=20) as client:
        client.sendall(b"POST /it/run HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000000\r\n\r\n{")
        assert client.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_files_are_uploaded(served: Served) -> None:
    content = os.urandom(3_000_000)
    for path in ("/v1/files", "/it/files"):
        answer = served.client.post(path, files={"file": ("x.bin", content)}, data={"purpose": "user_data"})
        assert answer.json()["bytes"] == len(content)


def test_chat_is_streamed_event_by_event(served: Served) -> None:
    body = {"model": "it", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    for path in ("/v1/chat/completions", "/it/chat"):
        with served.client.stream("POST", path, json=body) as answer:
            came = [(line, time.monotonic()) for line in answer.iter_lines() if line]
        assert came[-1][0] == "data: [DONE]"
        words = [at for line, at in came if "word" in line]
        assert len(words) == 5
        assert words[-1] - words[0] >= 0.3  # four pauses of 0.1 s; the events would come together at the end


def test_responses_are_streamed(served: Served) -> None:
    with served.client.stream("POST", "/v1/responses", json={"model": "it", "input": "hi", "stream": True}) as answer:
        events = [line.removeprefix("event: ") for line in answer.iter_lines() if line.startswith("event: ")]
    assert events[0] == "response.created"
    assert events[-1] == "response.completed"


def test_a_client_that_leaves_stops_the_pipeline(served: Served) -> None:
    closed = served.left / "closed"
    closed.unlink(missing_ok=True)
    body = {"messages": [{"role": "user", "content": "for ever"}], "stream": True}
    with served.client.stream("POST", "/it/chat", json=body) as answer:
        next(answer.iter_lines())
        assert not closed.exists()
    served.eventually(closed.exists, "the generator to be closed")


def test_lists_and_pages_are_served(served: Served) -> None:
    assert [model["id"] for model in served.client.get("/v1/models").json()["data"]] == ["it"]
    assert "/it/run" in served.client.get("/openapi.json").json()["paths"]
    assert "prompt" in served.client.get("/draw/it").text
    assert "<title>" in served.client.get("/", headers={"Accept": "text/html"}).text


def test_tools_are_served_without_sessions(served: Served) -> None:
    def ask(method: str, **params: Any) -> Any:
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        answer = served.client.post("/mcp", json=message, headers={"Accept": "application/json, text/event-stream"})
        assert "mcp-session-id" not in answer.headers  # the next request may come to another replica
        return answer.text

    assert '"it"' in ask("tools/list")
    assert '\\"text\\":\\"hello\\"' in ask("tools/call", name="it", arguments={"text": "hello"}).replace(" ", "")


def test_metrics_and_logs_are_rays_own(served: Served) -> None:
    served.run()
    served.eventually(
        lambda: (
            "ray_hayhooks_requests_total{" in httpx.get(METRICS).text and 'pipeline="it"' in httpx.get(METRICS).text
        ),
        "the metrics in Ray's",
    )
    assert "Deployed it " in served.cluster.log_of_replicas()


@replicated
def test_a_change_reaches_all_replicas(served: Served) -> None:
    processes = served.processes("it", 2)
    served.write(version=2)

    def changed() -> bool:
        answers = [served.run() for _ in range(20)]
        return {answer["version"] for answer in answers} == {2} and {answer["pid"] for answer in answers} == processes

    served.eventually(changed, "both replicas to serve the change")
    reports = served.replicas()
    assert len(reports) == 2
    assert {each["revision"] for each in reports} == {served.status()["revision"]}
    served.write()


@replicated
def test_hayhooks_status_says_that_replicas_differ(served: Served) -> None:
    served.processes("it", 2)
    (served.left / "one").unlink(missing_ok=True)
    served.write(version=3, problem="in one process")
    served.eventually(lambda: len({each["revision"] for each in served.replicas()}) == 2, "the replicas to differ")
    told = served.cluster.run("hayhooks", "status", "--port", "8000", check=False)
    assert told.returncode == 2
    assert "The replicas do not serve the same revisions" in told.stdout
    served.write()
    served.eventually(lambda: len({each["revision"] for each in served.replicas()}) == 1, "them to agree again")


class Load:
    """Requests from several threads, until it is told to stop."""

    def __init__(self, served: Served, threads: int = 8) -> None:
        self._served = served
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads)
        self._is_running = True
        self._lock = threading.Lock()
        self.answers: Counter[Any] = Counter()

    def __enter__(self) -> "Load":
        self._futures = [self._pool.submit(self._send) for _ in range(self._threads)]
        return self

    def __exit__(self, *_: object) -> None:
        self._is_running = False
        for future in self._futures:
            future.result()
        self._pool.shutdown()

    def _send(self) -> None:
        with httpx.Client(base_url=URL, timeout=60) as client:
            while self._is_running:
                try:
                    answer = client.post("/it/run", json={"wait_s": 0.01})
                except httpx.HTTPError as error:
                    got: Any = type(error).__name__
                else:
                    got = answer.json()["result"]["pid"] if answer.is_success else answer.text
                with self._lock:
                    self.answers[got] += 1

    def sent(self) -> int:
        return self.answers.copy().total()

    def lost(self) -> dict[Any, int]:
        return {answer: count for answer, count in self.answers.copy().items() if not isinstance(answer, int)}


@replicated
def test_no_request_is_lost_to_a_rolling_update(served: Served) -> None:
    before = served.processes("it", 2)
    with Load(served) as load:
        served.deploy(settings={"request_timeout": 50})
        served.eventually(lambda: not before & set(served.processes("it", 2)), "both replicas to be replaced")
        served.eventually(lambda: load.sent() > 2_000, "2,000 requests")
    assert load.lost() == {}
    assert len(set(load.answers) - before) == 2
    served.eventually(
        lambda: {each.name for each in served.left.glob("teardown-*")} >= {f"teardown-{pid}" for pid in before},
        "the old replicas to be torn down",
    )


@replicated
def test_what_a_killed_replica_was_not_answering_is_not_lost(served: Served) -> None:
    before = served.processes("it", 2)
    victim = min(before)
    with Load(served) as load:
        served.eventually(lambda: load.sent() > 200, "requests")
        served.cluster.run("kill", "-9", str(victim))
        served.eventually(lambda: len(set(load.answers) - before - set(load.lost())) == 1, "another replica")
    assert sum(load.lost().values()) <= 8  # those that it was answering: one of each thread at most
    served.eventually(lambda: len(served.processes("it", 2) - {victim}) == 2, "two replicas again")


@pytest.mark.slow
@replicated
def test_a_directory_that_cannot_be_read_is_never_ready(served: Served, tmp_path: Path) -> None:
    before = served.processes("it", 2)
    served.deploy(pipelines_dir=str(tmp_path / "missing"))
    failed = served.cluster.wait_until("DEPLOY_FAILED")
    assert "missing" in str(failed["deployments"]["hayhooks"]["message"])
    assert served.processes("it", 2) == before  # the replicas that served before still do
    served.deploy()
    served.cluster.wait_until("RUNNING")


@pytest.mark.slow
@replicated
def test_a_repository_is_checked_out_and_followed(served: Served, tmp_path: Path) -> None:
    def commit() -> None:
        shutil.copytree(served.root / "it", tmp_path / "repository" / "pipelines" / "it", dirs_exist_ok=True)
        name = ["-c", "user.name=tests", "-c", "user.email=tests@example.com"]
        for command in (["add", "."], [*name, "commit", "--quiet", "--message", "change"]):
            subprocess.run(["git", *command], cwd=tmp_path / "repository", check=True)

    subprocess.run(["git", "init", "--quiet", "--initial-branch", "main", tmp_path / "repository"], check=True)
    served.write(version=4)
    commit()
    served.deploy(
        pipelines_dir=f"git+file://{tmp_path}/repository@main#pipelines",
        ray_options={"num_replicas": 1, "num_cpus": 0.1},
    )
    served.eventually(lambda: "hayhooks-git-" in served.status()["directory"]["path"], "the checkout")
    served.cluster.wait_until("RUNNING")
    assert served.run()["version"] == 4
    served.write(version=5)
    commit()
    served.eventually(lambda: served.run()["version"] == 5, "the commit to be served")
    served.write()
    served.deploy()
    served.cluster.wait_until("RUNNING")


@per_pipeline
def test_each_pipeline_has_replicas_of_its_own(served: Served) -> None:
    served.write("large", num_replicas=2, num_cpus=0.2)
    served.eventually(lambda: served.run("large"), "it to be served")
    large = served.cluster.wait_until("RUNNING", "hayhooks/large")["deployments"]["pipeline"]
    assert large["target_num_replicas"] == 2
    assert large["deployment_config"]["ray_actor_options"]["num_cpus"] == 0.2
    assert not served.processes("large", 2) & served.processes("it", 1)
    assert len(served.replicas("hayhooks/large/pipeline")) == 2

    shutil.rmtree(served.root / "large")
    served.eventually(lambda: "hayhooks/large" not in served.cluster.applications(), "its application to be deleted")
    assert served.client.post("/large/run", json={}).status_code == 404
    assert "hayhooks/it" in served.cluster.applications()


@per_pipeline
def test_a_change_is_a_rolling_update_of_that_pipeline(served: Served) -> None:
    served.write("other", num_cpus=0.1)
    other = served.eventually(lambda: served.run("other"), "the other to be served")
    before = served.run()
    with Load(served) as load:
        served.write(version=2, num_cpus=0.1)
        served.eventually(lambda: served.run()["version"] == 2, "the change to be served")
        served.eventually(lambda: served.entry("it")["state"] == "serving", "the ingress to know")
        served.write(version=1, num_cpus=0.1)
        served.eventually(lambda: served.run()["version"] == 1, "the next one")
    assert load.lost() == {}
    assert before["pid"] != served.run()["pid"]
    assert other["pid"] == served.run("other")["pid"]


@per_pipeline
def test_a_broken_change_of_a_pipeline_takes_nothing_down(served: Served) -> None:
    before = served.entry("it")
    with Load(served) as load:
        served.write(problem="everywhere", num_cpus=0.1)
        served.eventually(lambda: served.entry("it")["state"] == "stale", "the failure")
        failure = served.entry("it")["failure"]
        served.write(num_cpus=0.1)
        served.eventually(lambda: served.entry("it")["state"] == "serving", "the mended one")
    assert load.lost() == {}
    assert failure["reason"] == "ValueError: broken here"
    assert failure["place"]["file"] == str(served.root / "it" / "pipeline_wrapper.py")
    assert before["revision"] != served.entry("it")["revision"]


@per_pipeline
def test_the_ingress_sets_nothing_up(served: Served) -> None:
    torn_down = {int(file.name.removeprefix("teardown-")) for file in served.left.glob("teardown-*")}
    ingress = {each["pid"] for each in served.status()["workers"]}

    assert not torn_down & ingress


@per_pipeline
def test_files_of_any_kind_and_yaml_are_served(served: Served) -> None:
    (served.root / "sums.yml").write_text(
        "components: {prompt: {type: haystack.components.builders.prompt_builder.PromptBuilder,"
        " init_parameters: {template: 'Hello {{name}}'}}}\n"
        "connections: []\ninputs: {name: prompt.name}\noutputs: {text: prompt.prompt}\n"
    )
    replace(served.root / "large" / "data" / "numbers.bin", "x" * 20_000_000)
    served.write("large", num_cpus=0.1)
    served.eventually(lambda: served.run("large"), "the folder with much data")
    served.eventually(
        lambda: (
            served.client.post("/sums/run", json={"name": "you"}).json()["result"]
            == {"prompt": {"prompt": "Hello you"}}
        ),
        "the YAML pipeline",
    )
    shutil.rmtree(served.root / "large")
    (served.root / "sums.yml").unlink()


@pytest.mark.slow
@per_pipeline
def test_processes_that_are_killed_come_back(served: Served) -> None:
    for killed in (("rollouts",), ("replicas",), ("pipeline", "hayhooks/it")):
        served.kill(*killed)
        served.write(version=6, num_cpus=0.1)
        served.eventually(lambda: served.run()["version"] == 6, f"a change after {killed} was killed")
        served.write(num_cpus=0.1)
        served.eventually(lambda: served.run()["version"] == 1, "the next one")


@pytest.mark.slow
@per_pipeline
def test_many_changes_end_with_the_last_for_all_ingresses(served: Served) -> None:
    served.deploy(ray_options={"num_replicas": 2, "num_cpus": 0.1})
    served.eventually(lambda: len(served.replicas()) == 2, "two ingresses")
    served.cluster.wait_until("RUNNING")
    for problem in ("", "everywhere", "", "everywhere", ""):
        served.write(version=7, problem=problem, num_cpus=0.1)
        time.sleep(0.3)  # for each to be noticed, and none to be done
    served.write(version=8, num_cpus=0.1)

    def is_settled() -> bool:
        answers = [served.run()["version"] for _ in range(20)]
        revisions = {each["revision"] for each in served.replicas()}
        return set(answers) == {8} and len(revisions) == 1 and served.entry("it")["state"] == "serving"

    served.eventually(is_settled, "the last change everywhere")


@pytest.mark.slow
@per_pipeline
def test_settings_that_are_deployed_reach_the_pipelines(served: Served) -> None:
    before = served.run()["pid"]
    served.deploy(settings={"max_body_size": 1_000})
    served.eventually(lambda: served.client.post("/it/run", json={"text": "x" * 2_000}).status_code == 413, "the limit")
    served.eventually(lambda: served.run()["pid"] != before, "the pipeline to have them")
    served.deploy()
    served.eventually(lambda: served.client.post("/it/run", json={"text": "x" * 2_000}).is_success, "no limit again")


@pytest.mark.slow
@per_pipeline
def test_a_change_that_fails_late_takes_nothing_down(served: Served) -> None:
    with Load(served) as load:
        served.write(problem="late", num_cpus=0.1)
        served.eventually(lambda: "broken late" in (served.entry("it")["error"] or ""), "the failure")
    assert load.lost() == {}
    served.write(num_cpus=0.1)
    served.eventually(lambda: served.entry("it")["state"] == "serving", "the mended one")


@per_pipeline
def test_options_that_ray_does_not_take_are_a_failure(served: Served) -> None:
    served.write("odd", num_gpu=1)
    served.eventually(lambda: served.entry("odd")["state"] == "failed", "the failure")
    assert "num_gpu" in served.entry("odd")["error"]
    shutil.rmtree(served.root / "odd")


@per_pipeline
def test_scripts_of_a_folder_may_be_run(served: Served) -> None:
    for name, mode in (("tool", 0o755), ("data", 0o644)):
        (served.root / "it" / name).write_bytes(b"\0\xff")
        (served.root / "it" / name).chmod(mode)
    served.write(num_cpus=0.1)
    served.eventually(lambda: served.run()["executable"] == ["tool"], "the script to be served")


@pytest.mark.slow
@per_pipeline
def test_a_mended_pipeline_is_served_though_rollouts_died_while_it_waited_for_resources(served: Served) -> None:
    served.write("large", num_gpus=1, graceful_shutdown_timeout_s=1)
    served.eventually(lambda: "hayhooks/large" in served.cluster.applications(), "it to wait")
    served.kill("rollouts")
    served.write("large", num_cpus=0.1)
    served.eventually(lambda: served.run("large"), "the mended one to be served")


@pytest.mark.slow
@per_pipeline
def test_what_was_removed_while_no_ingress_ran_is_deleted(served: Served) -> None:
    served.write("other", num_cpus=0.1)
    served.eventually(lambda: served.run("other"), "it to be served")
    served.kill("hayhooks")
    shutil.rmtree(served.root / "other")
    served.eventually(lambda: "hayhooks/other" not in served.cluster.applications(), "its application to be deleted")
    assert served.run()


@per_pipeline
def test_with_the_application_its_pipelines_are_deleted(served: Served) -> None:
    served.cluster.run("python", "-c", "import ray; from ray import serve; ray.init('auto'); serve.delete('hayhooks')")
    served.eventually(lambda: not served.cluster.applications(), "all to be deleted")


@pytest.mark.slow
@per_pipeline
def test_another_shape_leaves_no_pipelines(served: Served) -> None:
    served.deploy()
    served.cluster.wait_until("RUNNING")
    assert "hayhooks/it" in served.cluster.applications()
    served.deploy(shape="replicated")
    served.eventually(
        lambda: list(served.cluster.applications()) == ["hayhooks"], "those of the pipelines to be deleted"
    )
