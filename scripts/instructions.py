"""Count the processor's instructions that a request takes in the server, by Valgrind's callgrind.

The count is nearly the same in each run, also on a busy machine, where times differ by more than what is looked for. It
says nothing of caches and system calls: scripts/bench has the times. Needs Debian's package valgrind.
"""

import argparse
import http.client
import json
import re
import socket
import statistics
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import bench_servers as servers
from bench import ARTICLES, HAYHOOKS, OURS, SHOUT, chat

ROWS = {
    "run-async": ("/run_async/run", SHOUT),
    "run-sync": ("/run_sync/run", SHOUT),
    "run-objects": ("/run_objects/run", {"articles": ARTICLES}),
    "run-many": ("/many0/run", SHOUT),
    "chat-async": ("/chat_async/chat", chat("", 1000, 0, 1).body),
    "chat-sync": ("/chat_sync/chat", chat("", 1000, 0, 1).body),
}


def main() -> int:
    """Print a table: a row of work, and a column for each command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(ROWS), help="only these, separated by commas: %(default)s")
    parser.add_argument("--vs", metavar="COMMAND", action="append", default=[], help="another hayhooks command")
    parser.add_argument("--requests", type=int, default=200, help="that are counted (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median counts (default: %(default)s)")
    options = parser.parse_args()
    if unknown := set(options.rows.split(",")) - ROWS.keys():
        parser.error(f"--rows: there is no {sorted(unknown)[0]!r}, but {', '.join(ROWS)}")
    commands = [(OURS, HAYHOOKS), *((path, Path(path)) for path in options.vs)]
    print(f"| instructions of a request | {' | '.join(label for label, _ in commands)} | of the second |")
    print("| --- |" + " --: |" * (len(commands) + 1))
    with TemporaryDirectory() as directory, ExitStack() as stack:
        root = Path(directory) / "pipelines"
        servers.write_wrappers(root, with_haystack=False)
        started = []
        for number, (label, command) in enumerate(commands):
            counting, log = Path(directory) / f"hayhooks{number}", Path(directory) / f"log{number}"
            valgrind = f"valgrind -q --tool=callgrind --instr-atstart=no --callgrind-out-file={counting}.out"
            python = command.with_name("python")
            counting.write_text(f'#!/bin/sh\nexec {valgrind} --separate-threads=yes {python} {command} "$@"\n')
            counting.chmod(0o755)
            server = stack.enter_context(servers.hayhooks(counting, root, log, label))
            servers.all_served(server, root, log)
            started.append((server, counting))
        for row in options.rows.split(","):
            counts = []
            for server, counting in started:
                rounds = [count(server, counting, *ROWS[row], options.requests) for _ in range(options.rounds)]
                counts.append(statistics.median(rounds))
            ratio = f"{counts[0] / counts[1]:.3f}" if len(counts) > 1 else ""
            print(f"| {row} | {' | '.join(f'{count:,.0f}' for count in counts)} | {ratio} |", flush=True)
    return 0


def count(server: servers.Server, counting: Path, path: str, body: object, requests: int) -> float:
    """Return the instructions that *server* takes for one request, the mean of *requests* on one connection."""
    netloc, content = urlsplit(server.url).netloc, json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {netloc}\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
    host, _, port = netloc.partition(":")
    connection = socket.create_connection((host, int(port)), timeout=600)

    def ask(times: int) -> None:
        for _ in range(times):
            connection.sendall(head.encode() + b"\r\n\r\n" + content)  # in one piece, as most clients do
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            if answer.status != 200 or not answer.read():
                raise RuntimeError(f"{server.label} answers with {answer.status}: {answer.read()!r}")

    def control(*arguments: str) -> None:
        subprocess.run(["callgrind_control", *arguments, str(server.pid)], check=True, capture_output=True)

    dumps = set(counting.parent.glob(f"{counting.name}.out*"))
    ask(20)
    control("--zero")
    control("--instr=on")
    ask(requests)
    control("--instr=off")
    control("--dump")
    new = set(counting.parent.glob(f"{counting.name}.out*")) - dumps
    by_thread = [int(total) for dump in new for total in re.findall(r"^totals: (\d+)", dump.read_text(), re.MULTILINE)]
    # Threads that did little look after the server: under Valgrind they do so fifty times as often for each request.
    return sum(each for each in by_thread if each > max(by_thread) / 10) / requests


if __name__ == "__main__":
    sys.exit(main())
