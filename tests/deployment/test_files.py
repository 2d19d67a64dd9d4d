"""The files in examples/deployment agree with the server, with each other and with the guide."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

import hayhooks
from hayhooks import Settings
from hayhooks.observability.metrics import FAMILIES
from hayhooks.setting_fields import variable_names
from tests.cli.processes import started
from tests.live_server import ECHO, LiveServer, eventually, replace

ROOT = Path(hayhooks.__file__).parent.parent
FILES = ROOT / "examples/deployment"
KUBERNETES = ["kubernetes.yaml", "kubernetes-configmap.yaml"]
GUIDE = (ROOT / "docs/deployment_guidelines.md").read_text()

PORT = Settings.model_fields["port"].default
GRACEFUL_S = Settings.model_fields["graceful_shutdown_timeout"].default
STOP_S = 2 * GRACEFUL_S + 5  # for answers, for teardown(), and what the guide's preStop sleeps

STUCK = """
import time
from pathlib import Path

from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_api(self):
        Path(BEGAN).touch()
        time.sleep(600)

    def teardown(self):
        time.sleep(600)
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)


def kubernetes(file: str = "kubernetes.yaml") -> dict[str, Any]:
    """The resources, by kind."""
    return {resource["kind"]: resource for resource in yaml.safe_load_all((FILES / file).read_text())}


def unit() -> dict[str, dict[str, list[str]]]:
    """The unit's keys and values; a key may come several times."""
    sections: dict[str, dict[str, list[str]]] = {}
    for line in (FILES / "hayhooks@.service").read_text().splitlines():
        if line.startswith("["):
            section = sections.setdefault(line.strip("[]"), {})
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            section.setdefault(key, []).append(value)
    return sections


def test_the_guide_shows_every_file():
    for file in FILES.iterdir():
        assert f"examples/deployment/{file.name})" in GUIDE, file


def test_the_server_takes_none_of_them_for_a_pipeline(server: LiveServer):
    shutil.copytree(FILES, server.root / "deployment")
    server.serve("echo", answer="")

    assert server.status()["pipelines"] == ["echo"]
    assert [entry["name"] for entry in server.status()["deployments"]] == ["echo"]


def test_the_unit_is_one():
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here")
    command = ["systemd-analyze", "verify", str(FILES / "hayhooks@.service")]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    complaints = [line for line in said.splitlines() if "hayhooks" in line]

    assert [line for line in complaints if "/opt/hayhooks/bin/hayhooks is not executable" not in line] == []


def test_the_unit_waits_for_the_server_to_start_and_to_stop():
    service = unit()["Service"]

    assert service["KillSignal"] == ["SIGTERM"]
    assert int(service["TimeoutStopSec"][0]) > STOP_S
    assert service["ExecStartPost"][0].endswith("http://127.0.0.1:%i/readyz")
    retries = re.search(r"--retry (\d+) --retry-delay 1 ", service["ExecStartPost"][0])
    assert retries is not None
    assert int(service["TimeoutStartSec"][0]) > int(retries[1])


def test_the_unit_is_started_when_the_server_is_ready(tmp_path: Path):
    command = unit()["Service"]["ExecStartPost"][0]
    assert os.access(command.split()[0], os.X_OK)
    with started(tmp_path, "run", PIPELINES_DIR=str(tmp_path / "later/pipelines"), ready=503) as late:
        waiting = subprocess.Popen(command.replace("127.0.0.1:%i", f"127.0.0.1:{late.port}").split())
        replace(tmp_path / "later/pipelines/echo/pipeline_wrapper.py", "ANSWER = ''\n" + ECHO)
        assert waiting.wait(timeout=60) == 0
        assert late.get("/readyz").status_code == 200


def test_a_stop_takes_little_longer_than_the_graceful_time(tmp_path: Path):
    began = tmp_path / "began"
    replace(tmp_path / "pipelines/stuck/pipeline_wrapper.py", f"BEGAN = {str(began)!r}\n" + STUCK)
    with started(tmp_path, "run", GRACEFUL_SHUTDOWN_TIMEOUT="1") as server:
        request = subprocess.Popen(["curl", "-s", "-d", "{}", server.url + "/stuck/run"])
        eventually(began.exists)
        assert server.stop() == 0  # it waits for 40 s: the machine may be slow, but this is no 600 s
        request.wait(timeout=60)
        assert "not torn down in time" in server.output()


def test_what_the_dockerfile_copies_exists_and_is_not_ignored():
    text = (FILES / "Dockerfile").read_text()
    copied = [path for line in re.findall(r"^COPY (?!--from)(.*)", text, re.MULTILINE) for path in line.split()[:-1]]
    ignored = (ROOT / ".dockerignore").read_text().splitlines()

    assert "hayhooks" in copied
    for path in copied:
        assert (ROOT / path).exists(), path
        assert f"!{path}" in ignored, path
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {project["readme"], *project["license-files"]} <= set(copied)


def test_the_dockerfile_sets_what_exists_and_asks_for_readiness(tmp_path: Path):
    text = (FILES / "Dockerfile").read_text()
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", text, re.MULTILINE)
    assert f"\nEXPOSE {PORT}\n" in text
    assert json.loads(text.splitlines()[-1].removeprefix("CMD ")) == ["hayhooks", "run"]
    health = re.search(r"CMD (\[\"python\".*\])$", text, re.MULTILINE)
    assert health is not None
    python, *rest = json.loads(health[1])
    assert python == "python"
    with started(tmp_path, "run") as server:
        check = [sys.executable, *(part.replace(f":{PORT}", f":{server.port}") for part in rest)]
        proxied = {**os.environ, "http_proxy": "http://127.0.0.1:9"}  # a proxy of the host's, which nobody is
        assert subprocess.run(check, check=False, env=proxied).returncode == 0
        (tmp_path / "pipelines").rmdir()
        eventually(lambda: server.get("/readyz").status_code == 503)
        assert subprocess.run(check, stderr=subprocess.DEVNULL, check=False).returncode == 1


def test_the_compose_file_agrees_with_the_image():
    service = yaml.safe_load((FILES / "compose.yml").read_text())["services"]["hayhooks"]

    assert (FILES / service["build"]["context"] / service["build"]["dockerfile"]).resolve() == FILES / "Dockerfile"
    assert service["ports"] == [f"127.0.0.1:{PORT}:{PORT}"]
    assert int(service["stop_grace_period"].removesuffix("s")) > 2 * GRACEFUL_S
    assert service["environment"]["HAYHOOKS_GRACEFUL_SHUTDOWN_TIMEOUT"] == str(GRACEFUL_S)
    assert "HAYHOOKS_PIPELINES_DIR=/pipelines" in (FILES / "Dockerfile").read_text()
    assert service["volumes"] == ["${PIPELINES:-..}:/pipelines:ro"]


@pytest.mark.parametrize("file", KUBERNETES)
def test_the_resources_are_as_kubernetes_describes_them(file: str):
    for resource in kubernetes(file).values():
        kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("file", KUBERNETES)
def test_each_setting_of_the_pods_is_one(file: str):
    resources = kubernetes(file)
    (server, *_) = resources["Deployment"]["spec"]["template"]["spec"]["containers"]
    data = resources["ConfigMap"]["data"] if "envFrom" in server else {}
    names = {name for field in Settings.model_fields for name in variable_names(Settings, field)}

    assert {*data, *(variable["name"] for variable in server.get("env", ()))} <= names


@pytest.mark.parametrize("file", KUBERNETES)
def test_the_pods_are_as_little_as_they_can_be(file: str):
    pod = kubernetes(file)["Deployment"]["spec"]["template"]["spec"]

    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }


def kuberay() -> dict[str, Any]:
    """The resource of KubeRay's kind; no package has its schema."""
    resource: dict[str, Any] = yaml.safe_load((FILES / "kuberay.yaml").read_text())
    return resource


def kuberay_pods() -> dict[str, dict[str, Any]]:
    cluster = kuberay()["spec"]["rayClusterConfig"]
    workers = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    return {name: group["template"]["spec"] for name, group in {"head": cluster["headGroupSpec"], **workers}.items()}


def test_the_pods_of_ray_are_as_kubernetes_describes_them():
    assert (kuberay()["apiVersion"], kuberay()["kind"]) == ("ray.io/v1", "RayService")
    for name, spec in kuberay_pods().items():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)


def test_the_pods_of_ray_are_as_little_as_they_can_be():
    port = yaml.safe_load(kuberay()["spec"]["serveConfigV2"])["http_options"]["port"]
    for name, pod in kuberay_pods().items():
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is (name == "head")
        assert f"USER {pod['securityContext']['runAsUser']}:" in (FILES / "Dockerfile").read_text()
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == {each["name"] for each in pod["volumes"]}
        assert {"name": "serve", "containerPort": port} in container["ports"]
        for variable in container.get("env", ()):
            assert variable["name"] in {
                each for field in Settings.model_fields for each in variable_names(Settings, field)
            }


def test_ray_is_of_the_version_that_is_installed_with_hayhooks():
    constraints = (ROOT / "scripts/constraints.txt").read_text()

    assert f"\nray=={kuberay()['spec']['rayClusterConfig']['rayVersion']}\n" in constraints


def test_the_number_of_pods_follows_a_metric_that_there_is():
    resources = kubernetes()
    autoscaler, deployment = resources["HorizontalPodAutoscaler"]["spec"], resources["Deployment"]
    (metric,) = autoscaler["metrics"]

    assert autoscaler["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"]  # each `kubectl apply` would set them
    assert resources["PodDisruptionBudget"]["spec"]["minAvailable"] < autoscaler["minReplicas"]
    name = metric["pods"]["metric"]["name"]
    assert FAMILIES[name].type == "gauge"
    (rule,) = next(yaml.safe_load(block)["rules"] for block in blocks("yaml") if "seriesQuery" in block)
    assert rule["seriesQuery"].startswith(name + "{")
    assert f"sum({name}{{" in rule["metricsQuery"]


def test_the_network_policy_is_of_the_pods_and_their_port():
    resources = kubernetes()
    policy, template = resources["NetworkPolicy"]["spec"], resources["Deployment"]["spec"]["template"]
    (server, *_) = template["spec"]["containers"]

    assert policy["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    assert policy["ingress"][0]["ports"] == [{"port": server["ports"][0]["name"]}]
    assert template["metadata"]["annotations"]["prometheus.io/port"] == str(PORT)


def test_the_configmap_is_served_and_changes_as_one(server: LiveServer):
    resources = kubernetes("kubernetes-configmap.yaml")
    pod = resources["Deployment"]["spec"]["template"]["spec"]
    (mount,) = [mount for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == "echo"]
    assert mount["mountPath"] == f"/pipelines/{mount['name']}"  # the image's directory
    assert "subPath" not in mount
    folder = server.root / Path(mount["mountPath"]).name

    def sync(version: str, content: dict[str, str]) -> None:
        """Do as the kubelet does."""
        for name, text in content.items():
            replace(folder / f"..{version}" / name, text)
        (folder / "..data_tmp").symlink_to(f"..{version}")
        (folder / "..data_tmp").rename(folder / "..data")
        for name in content:
            if not (folder / name).is_symlink():
                (folder / name).symlink_to(f"..data/{name}")

    sync("1", resources["ConfigMap"]["data"])
    server.eventually(lambda: server.run("echo", text="you") == "you")
    wrapper = resources["ConfigMap"]["data"]["pipeline_wrapper.py"]
    sync("2", {"pipeline_wrapper.py": wrapper.replace("return text", "return text.upper()")})
    server.eventually(lambda: server.run("echo", text="you") == "YOU")


@pytest.mark.parametrize("file", KUBERNETES)
def test_the_kubernetes_files_agree_with_the_server(file: str):
    resources = kubernetes(file)
    pod = resources["Deployment"]["spec"]["template"]["spec"]
    server = next(container for container in pod["containers"] if container["name"] == "hayhooks")

    assert server["ports"] == [{"name": "http", "containerPort": PORT}]
    assert server["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}
    assert server["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}
    sleep, seconds = server["lifecycle"]["preStop"]["exec"]["command"]
    assert sleep == "sleep"
    variables = {variable["name"]: variable["value"] for variable in server.get("env", ())}
    data = resources["ConfigMap"]["data"] if "envFrom" in server else variables
    graceful = int(data["HAYHOOKS_GRACEFUL_SHUTDOWN_TIMEOUT"])
    assert pod["terminationGracePeriodSeconds"] > int(seconds) + 2 * graceful
    assert f"USER {pod['securityContext']['runAsUser']}:" in (FILES / "Dockerfile").read_text()
    assert resources["Service"]["spec"]["ports"][0]["targetPort"] == "http"


def test_pod_mounts_match_volumes():
    """Every mount of the pods has its volume and git sync writes where the server reads."""
    resources = kubernetes()
    pod = resources["Deployment"]["spec"]["template"]["spec"]
    volumes = {volume["name"] for volume in pod["volumes"]}
    server, git_sync = pod["containers"]
    mounts = {mount["name"]: mount for mount in server["volumeMounts"]}

    assert {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]} == volumes
    options = dict(argument.removeprefix("--").split("=", 1) for argument in git_sync["args"])
    link = f"{options['root']}/{options['link']}/"
    assert resources["ConfigMap"]["data"]["HAYHOOKS_PIPELINES_DIR"].startswith(link)
    assert link.startswith(mounts["git"]["mountPath"] + "/")
    assert mounts["git"]["readOnly"] is True
    assert mounts["tmp"]["mountPath"] == "/tmp"


def test_a_new_version_is_delivered_as_the_guide_shows(server: LiveServer, tmp_path: Path):
    deliver = next(block for block in blocks("sh") if "$PIPELINES/.chat_docs.new" in block)
    server.serve("chat_docs", answer="old")
    replace(tmp_path / "chat_docs/pipeline_wrapper.py", "ANSWER = 'new'\n" + ECHO)
    environment = {**os.environ, "PIPELINES": str(server.root)}

    subprocess.run(["sh", "-ec", deliver], cwd=tmp_path, env=environment, check=True)

    server.eventually(lambda: server.run("chat_docs") == "new")
    assert [path.name for path in server.root.iterdir()] == ["chat_docs"]


def test_the_yaml_of_the_guide_is_yaml_and_its_shell_is_shell():
    for block in blocks("yaml"):
        assert yaml.safe_load(block)
    for block in blocks("sh"):
        assert subprocess.run(["sh", "-nc", block], check=False).returncode == 0, block


@pytest.mark.parametrize("path", sorted(set(re.findall(r"examples/deployment/[\w@.-]+|scripts/[\w.]+", GUIDE))))
def test_what_the_guides_commands_name_exists(path: str):
    assert (ROOT / path).exists()
