"""Run the command line in a terminal of its own, as a person does: type lines, read what is shown."""

import os
import re
import signal
import subprocess
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cli.processes import environment
from tests.fork_server import HAYHOOKS, popen
from tests.live_server import eventually

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[()][0B]|\x1b[=>]")


class Terminal:
    """A running command, its keyboard and its screen."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process = process
        self._master = master
        self._bytes = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def text(self) -> str:
        """All that was shown so far, without colours; a line that was overwritten is there in each of its states."""
        return _CONTROL.sub("", self._bytes.decode(errors="replace")).replace("\r\n", "\n")

    def type(self, text: str, end: str = "\n") -> None:
        r"""Type *text* and Enter; ``"\x03"`` with the *end* ``""`` is Ctrl+C."""
        os.write(self._master, (text + end).encode())

    def shows(self, text: str, since: int = 0) -> int:
        """Wait until *text* is shown; return the position behind it, so that what follows can be asked for."""
        eventually(lambda: text in self.text[since:], f"{text!r} in\n{self.text[since:]}", 30)
        return self.text.index(text, since) + len(text)

    def wait(self) -> int:
        """Wait for the end of the command; return its exit status."""
        status = self.process.wait(60)
        self._reader.join(60)
        return status

    def _read(self) -> None:
        while True:
            try:
                read = os.read(self._master, 65_536)
            except OSError:  # on Linux the end of a terminal is EIO
                return
            if not read:
                return
            self._bytes += read


@contextmanager
def in_terminal(
    *arguments: str | Path, cwd: Path, columns: int = 80, lines: int = 24, **settings: str
) -> Iterator[Terminal]:
    """A command in a terminal of that size; *settings* are in its environment."""
    master, slave = os.openpty()
    termios.tcsetwinsize(slave, (lines, columns))
    variables = {name: value for name, value in environment(**settings).items() if name not in ("COLUMNS", "NO_COLOR")}
    process = popen(
        [HAYHOOKS, *map(str, arguments)],
        terminal=True,
        cwd=cwd,
        env={**variables, "TERM": "xterm-256color"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    terminal = Terminal(process, master)
    try:
        yield terminal
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        terminal.wait()
        os.close(master)
