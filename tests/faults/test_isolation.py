"""What a wrapper does to the process that it runs in: the others serve, deploy and report all the same."""

from pathlib import Path

import httpx

from tests.cli.processes import Process, started
from tests.live_server import ECHO, eventually, replace

# What setup() does; all of it in one process, one after the other.
HOSTILE = {
    "changes the directory": "import os; os.chdir('/')",
    "turns warnings into errors": "import warnings; warnings.simplefilter('error')",
    "disables logging": "import logging; logging.disable(logging.CRITICAL)",
    "ends logging": "import logging; logging.getLogger().handlers.clear(); logging.shutdown()",
    "ends our log": "from hayhooks import log; log.remove()",
    "closes the streams": "import sys; sys.stdout.close(); sys.stderr.close()",
    "replaces the streams": "import sys; sys.stdout = sys.stderr = None",
    "empties the environment": "import os; os.environ.clear()",
    "switches the collector off": "import gc; gc.disable(); gc.freeze()",
    "sets a policy of loops": "import asyncio; asyncio.set_event_loop_policy(None)",
    "runs a loop": "import asyncio; asyncio.run(asyncio.sleep(0))",
    "gives sockets no time": "import socket; socket.setdefaulttimeout(0.0001)",
    "loses the temporary directory": "import tempfile; tempfile.tempdir = '/nowhere'",
    "hides new files": "import os; os.umask(0o777)",
    "allows few files": "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (64, 64))",
    "allows small stacks": "import threading; threading.stack_size(65536)",
    "blocks signals": "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])",
    "fails at exit": "import atexit; atexit.register(lambda: 1 / 0)",
    "fails in a thread": "import threading; threading.Thread(target=lambda: 1 / 0).start()",
    "forks": "import os; pid = os.fork(); pid or os._exit(0); os.waitpid(pid, 0)",
    "forgets modules": "import sys; [sys.modules.pop(m) for m in list(sys.modules) if m.startswith('starlette')]",
    "takes print away": "import builtins; builtins.print = None",
    "takes sleep away": "import time; time.sleep = None",
}


def hostile(statement: str) -> str:
    return "ANSWER = 'hostile '\n" + ECHO.replace("        pass", f"        {statement}")


def test_a_wrapper_that_misbehaves_hurts_itself_alone(tmp_path: Path):
    root = tmp_path / "pipelines"
    with started(tmp_path, "run", GRACEFUL_SHUTDOWN_TIMEOUT="5") as server:
        for number, (kind, statement) in enumerate(HOSTILE.items()):
            replace(root / "hostile/pipeline_wrapper.py", hostile(statement))
            _answers(server, "hostile", "hostile ", kind)
            replace(root / "echo/pipeline_wrapper.py", f"ANSWER = '{number} '\n{ECHO}")
            _answers(server, "echo", f"{number} ", kind)
        replace(root / "broken/pipeline_wrapper.py", "import nothing_of_this_name\n")
        eventually(lambda: "nothing_of_this_name" in server.get("/status/broken").json()["error"])
        replace(root / "late/pipeline_wrapper.py", "from haystack import Pipeline\nANSWER = 'late '\n" + ECHO)
        _answers(server, "late", "late ", "all of it")
        assert server.stop() == 0


def test_a_log_that_raises_does_not_end_the_deployer(tmp_path: Path):
    root = tmp_path / "pipelines"
    with started(tmp_path, "run") as server:
        statement = "from hayhooks import log; log.add(lambda _: 1 / 0, catch=False)"
        replace(root / "hostile/pipeline_wrapper.py", hostile(statement))
        _answers(server, "hostile", "hostile ", "a log that raises")
        for answer in ("one ", "two "):
            replace(root / "echo/pipeline_wrapper.py", f"ANSWER = {answer!r}\n{ECHO}")
            _answers(server, "echo", answer, "a log that raises")


def _answers(server: Process, name: str, answer: str, kind: str) -> None:
    def is_so() -> bool:
        response = httpx.post(f"{server.url}/{name}/run", json={"text": "x"}, timeout=30)
        return bool(response.json().get("result") == f"{answer}x")

    eventually(is_so, f"{name} to answer {answer!r} beside one that {kind}")


AT_RUN = """
import os, sys
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_api(self):
        STATEMENT
        return "survived"

    async def run_chat_completion_async(self, model, messages, body):
        STATEMENT
        yield "survived"
"""


RAISED = [
    "sys.exit(3)",
    "raise KeyboardInterrupt",
    "raise BaseException('odd')",
    "raise GeneratorExit",
    "raise StopIteration",
    "raise ValueError('\\ud800')",
    "raise type('Untellable', (Exception,), {'__str__': lambda self: 1 / 0})",
]


def test_what_a_request_raises_is_its_own_answer(tmp_path: Path):
    root = tmp_path / "pipelines"
    replace(root / "echo/pipeline_wrapper.py", f"ANSWER = 'echo '\n{ECHO}")
    for number, statement in enumerate(RAISED):
        replace(root / f"raises{number}/pipeline_wrapper.py", AT_RUN.replace("STATEMENT", statement))
    with started(tmp_path, "run") as server:
        message = [{"role": "user", "content": "x"}]
        for number, statement in [*enumerate(RAISED)] * 2:
            assert server.post(f"/raises{number}/run", {}).status_code == 500, statement
            chat = server.post("/v1/chat/completions", {"model": f"raises{number}", "messages": message})
            assert (chat.status_code, "error" in chat.json()) == (500, True), statement
            _answers(server, "echo", "echo ", f"does {statement}")
        assert server.stop() == 0
