"""Serve the examples; see scripts/demo."""

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
HAYHOOKS = Path(sys.executable).with_name("hayhooks")
PORT = 1416  # the one that the READMEs show
START_S = 90


def commands() -> dict[str, list[str]]:
    """Return the curl commands of each example's README, in the order of examples/README.md."""
    listed = re.findall(r"^\| \[(\w+)\]", (EXAMPLES / "README.md").read_text(), re.MULTILINE)
    names = [name for name in listed if (EXAMPLES / f"{name}.yml").exists() or any((EXAMPLES / name).glob("*.py"))]
    blocks = re.compile(r"^```sh\n(curl .*?)^```", re.MULTILINE | re.DOTALL)
    return {name: blocks.findall((EXAMPLES / name / "README.md").read_text()) for name in names}


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/demo", description="Serve the examples.")
    parser.add_argument("--check", action="store_true", help="send the READMEs' requests, print the answers and exit")
    parser.add_argument(
        "--before-install", action="store_true", help=argparse.SUPPRESS
    )  # check arguments and port only
    parser.add_argument("--port", type=int, help=f"default: {PORT}, or a free port with --check")
    arguments = parser.parse_args()
    port = arguments.port or (_free_port() if arguments.check else PORT)
    if _is_taken(port):  # another server there would answer the readiness check
        print(f"Port {port} is taken: stop the program that uses it, or set another with --port.", file=sys.stderr)
        return 1
    if arguments.before_install:
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # else the server would go on
    serve = ["run", "--pipelines-dir"] if arguments.check else ["dev"]  # which tells of no probes
    command = [HAYHOOKS, *serve, EXAMPLES, "--port", str(port)]
    # The examples work offline, so Haystack's telemetry is off too.
    with subprocess.Popen(command, env={"HAYSTACK_TELEMETRY_ENABLED": "false", **os.environ}) as server:
        try:
            if not _wait_until_ready(server, port):
                return 1
            return _check(port) if arguments.check else _invite(server, port)
        finally:
            server.send_signal(signal.SIGTERM)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _wait_until_ready(server: subprocess.Popen[bytes], port: int) -> bool:
    for _ in range(START_S * 2):
        if server.poll() is not None:
            return False
        try:
            urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5)
        except URLError:
            time.sleep(0.5)
        else:
            return True
    print(f"The server was not ready within {START_S} s.", file=sys.stderr)
    return False


def _invite(server: subprocess.Popen[bytes], port: int) -> int:
    print("\nThe examples are running. Try in another terminal:\n")
    for block in (block for blocks in commands().values() for block in blocks):
        print(_on_port(block, port))
    print(f"Deployments: curl http://127.0.0.1:{port}/status; API pages: http://127.0.0.1:{port}/docs")
    print(f"Edit a file in {EXAMPLES}, and the next answer uses the new code. Press Ctrl+C to stop.\n", flush=True)
    try:
        return server.wait()
    except KeyboardInterrupt:
        return 0


def _check(port: int) -> int:
    failed = 0
    for name, blocks in commands().items():
        for block in blocks:
            command = _on_port(block, port)
            print(f"\n# {name}\n{command}", flush=True)
            # --fail-with-body: an error status makes curl fail, and its body is still printed.
            answer = subprocess.run(
                ["sh", "-c", command.replace("curl ", "curl --silent --show-error --fail-with-body --max-time 60 ", 1)],
                stdout=subprocess.PIPE,
                env={**os.environ, "NO_PROXY": "127.0.0.1"},
                check=False,
                text=True,
            )
            print(answer.stdout, flush=True)
            ok = answer.returncode == 0 and answer.stdout and '"error"' not in answer.stdout
            failed += not ok
    print(f"\n{'All answered.' if not failed else f'{failed} failed.'}")
    return 1 if failed else 0


def _on_port(command: str, port: int) -> str:
    return command.replace(f":{PORT}", f":{port}")


if __name__ == "__main__":
    sys.exit(main())
