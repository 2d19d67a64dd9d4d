"""A real nginx, with the configuration that the guide shows, in a folder and on ports of its own."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

import hayhooks
from tests.live_server import eventually
from tests.network import free_port

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")

SITE = Path(hayhooks.__file__).parent.parent / "examples/deployment/nginx.conf"

# What a distribution's nginx.conf has around a site, and nothing that would leave the folder.
MAIN = """
{user}
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log info;
events {{}}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/site.conf;
}}
"""

needs_nginx = pytest.mark.skipif(
    NGINX is None and not os.environ.get("CI"), reason="no nginx here; in CI it is installed"
)


class Nginx:
    """A running nginx.

    Attributes:
        url: where it listens.
        folder: where its files lie.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``nginx`` for this one, to the end."""
        assert NGINX is not None, "nginx is not installed"
        command = [NGINX, "-p", str(self.folder), "-c", str(self.folder / "nginx.conf"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    def write(self, servers: Sequence[int], changes: dict[str, str]) -> None:
        """Write the configuration: that of the guide with *changes*, in front of *servers*, which are ports."""
        site = SITE.read_text()
        listed = "\n".join(f"    server 127.0.0.1:{port} max_fails=0;" for port in servers)
        changes = {
            "    server 127.0.0.1:1416 max_fails=0;\n    # server 127.0.0.1:1417 max_fails=0;": listed,
            "listen 80;": f"listen 127.0.0.1:{self.port};",
            "/var/log/nginx/hayhooks.log": f"{self.folder}/access.log",
            **changes,
        }
        for old, new in changes.items():
            assert site.count(old) == 1, f"{SITE} says {old!r} {site.count(old)} times"
            site = site.replace(old, new)
        (self.folder / "site.conf").write_text(site)
        user = "user root;" if os.geteuid() == 0 else ""  # the folder is that of who runs the tests
        (self.folder / "nginx.conf").write_text(MAIN.format(user=user, folder=self.folder))

    def access_log(self) -> str:
        """What it has logged of requests."""
        return (self.folder / "access.log").read_text()


@contextmanager
def nginx(tmp_path: Path, *servers: int, changes: dict[str, str] | None = None) -> Iterator[Nginx]:
    """nginx in front of *servers*, which are ports, with the guide's configuration and *changes* of it."""
    folder = tmp_path / "nginx"
    folder.mkdir()
    server = Nginx(folder, free_port())
    server.write(servers, changes or {})
    tested = server.command("-t")
    assert tested.returncode == 0, tested.stderr
    assert not re.search(r"\[(warn|error|emerg)\]", tested.stderr), tested.stderr
    assert NGINX is not None
    with subprocess.Popen([NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf")]) as process:
        try:
            eventually(lambda: (folder / "pid").exists() and (folder / "pid").read_text(), "nginx to run")
            yield server
        finally:
            process.terminate()
            process.wait(timeout=30)
