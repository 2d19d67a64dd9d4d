"""Places: where in the user's code a thread or an error is."""

import ast
import inspect
import linecache
import os
import re
import site
import sysconfig
import textwrap
import traceback as tracebacks
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Protocol

from hayhooks.errors import Place, sendable
from hayhooks.kernel.isolation import running_source
from hayhooks.kernel.state import Revision

_INSTALLED = (  # directories of code that is not the user's
    str(Path(__file__).parents[1]) + os.sep,
    *{sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")},
    *(path + os.sep for path in site.getsitepackages()),
    "<",
)
_DEFINITION = re.compile(r"\s*(async\s+def|def|class)\b")
_TEXT_SUFFIXES = (".py", ".yml", ".yaml", ".j2", ".jinja", ".jinja2", ".txt", ".md")  # where templates may be
_MAX_ENTRIES = 2_000  # of a folder
_MAX_FILES = 200  # that are read to find a template
_MAX_BYTES = 2**20  # of each


class UserFiles(Protocol):
    """The files of the user, in which an error is looked for."""

    def place(self, file: str, line: int) -> Place | None:
        """Return that line of *file*; None if the file is not the user's."""

    def texts(self, near: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Yield path and text of the files beside *near*."""


class RevisionFiles:
    """The files of a revision, as they run, and its shared modules."""

    def __init__(self, revision: Revision) -> None:
        self._revision = revision

    def place(self, file: str, line: int) -> Place | None:
        """Return that line of *file*; None if the file is not the revision's."""
        return innermost_place(self._revision, [(file, line)])

    def around(self, place: Place, lines: int = 2) -> list[tuple[int, str]]:
        """Return the line of *place* and so many before and after it, with their numbers."""
        source, first = _source(self._revision, place.file), max(place.line - lines, 1)
        return list(enumerate(map(sendable, source[first - 1 : place.line + lines]), first))

    def texts(self, near: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Yield path and text of the files of the revision, code as it runs."""
        folder, files = self._revision.path, self._revision.files
        paths = {folder if name == folder.name and folder.is_file() else folder / name: name for name in files}
        for path, name in paths.items():
            if (source := files[name].source) is not None:
                yield str(path), source.decode(errors="replace")
        yield from _read(path for path, name in paths.items() if files[name].source is None)


class OpenFiles:
    """All files but those of installed packages."""

    def place(self, file: str, line: int) -> Place | None:
        """Return that line of *file*; None if the file is installed."""
        if file.startswith(_INSTALLED) or not os.path.isabs(file):  # as of a library in C
            return None
        return Place(file, line, "".join(self.lines(file)[line - 1 : line]).strip())

    def lines(self, file: str) -> list[str]:
        """Return the lines of *file*; of a wrapper whose request runs in this context as they run."""
        if (source := running_source(file)) is not None:
            return source.splitlines()
        linecache.checkcache(file)
        return [line.rstrip("\n") for line in linecache.getlines(file)]

    def around(self, place: Place, lines: int = 2) -> list[tuple[int, str]]:
        """Return the line of *place* and so many before and after it, with their numbers."""
        first = max(place.line - lines, 1)
        return list(enumerate(map(sendable, self.lines(place.file)[first - 1 : place.line + lines]), first))

    def texts(self, near: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Yield path and text of the files of *near*, then of those beside them."""
        own = [Path(file) for file in near if not file.startswith(_INSTALLED)]
        beside = [
            path
            for folder in dict.fromkeys(file.parent for file in own)
            for pattern in ("*", "*/*")  # as in prompts/answer.jinja
            for path in sorted(islice(folder.glob(pattern), _MAX_ENTRIES))
        ]
        yield from _read([*own, *beside])


def _read(paths: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """Yield path and text of those of *paths* where templates may be."""
    for path in islice((path for path in dict.fromkeys(paths) if path.suffix in _TEXT_SUFFIXES), _MAX_FILES):
        try:
            if path.stat().st_size <= _MAX_BYTES:
                yield str(path), path.read_text(errors="replace")
        except OSError:  # removed meanwhile
            continue


def innermost_place(revision: Revision, lines: Iterable[tuple[str, int]]) -> Place | None:
    """Return the first of *lines*, each a file and a number, in the code of *revision* or its shared modules."""
    shared = {module.path for module in revision.shared.values()}
    for file, number in lines:
        if file in shared or file == str(revision.path) or file.startswith(f"{revision.path}/"):
            return Place(file, number, "".join(_source(revision, file)[number - 1 : number]).strip())
    return None


def _source(revision: Revision, file: str) -> list[str]:
    """Return the lines of *file*: of a revision's own as it runs, for it may be another by now."""
    own = revision.files.get(file.removeprefix(f"{revision.path}/"))
    if own is not None and own.source is not None:
        return own.source.decode(errors="replace").splitlines()
    linecache.checkcache(file)
    return [line.rstrip("\n") for line in linecache.getlines(file)]


def place_of_definition(defined: Callable[..., Any] | CodeType) -> Place | None:
    """Return where the user has defined a method or class."""
    try:
        file, (lines, line) = inspect.getsourcefile(defined), inspect.getsourcelines(defined)
    except (OSError, TypeError):  # it has no source, or is no function
        return None
    line += next((index for index, text in enumerate(lines) if _DEFINITION.match(text)), 0)  # decorators are before
    return OpenFiles().place(file, line) if file else None


def place_of_result(method: Callable[..., Any] | CodeType) -> Place | None:
    """Return the only line on which the user's *method* returns or yields a value; with several its definition."""
    if (defined := place_of_definition(method)) is None:
        return None
    lines, first = inspect.getsourcelines(method)
    try:
        nodes: list[ast.AST] = [*ast.parse(textwrap.dedent("".join(lines))).body]
    except SyntaxError:  # lines of a text may be indented less
        return defined
    found = []
    for node in nodes:  # it grows
        if isinstance(node, ast.Yield | ast.YieldFrom) or (isinstance(node, ast.Return) and node.value):
            found.append(first + node.lineno - 1)
        is_inner = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and node is not nodes[0]
        nodes += [] if is_inner else ast.iter_child_nodes(node)
    return OpenFiles().place(defined.file, found[0]) if len(found) == 1 else defined


def frames_of(error: BaseException) -> Iterator[tuple[FrameType, int]]:
    """Yield the frames and lines that *error* went through, the innermost first."""
    return reversed(list(tracebacks.walk_tb(error.__traceback__)))


def outward(frame: FrameType | None) -> Iterator[FrameType]:
    """Yield *frame* and those that called it."""
    while frame is not None:
        yield frame
        frame = frame.f_back
