"""Places: where in the user's code a thread or an error is."""

import linecache
import os
import site
import sysconfig
import traceback as tracebacks
from collections.abc import Iterable, Iterator
from types import FrameType

from hayhooks.errors import Place
from hayhooks.kernel.state import Revision

_INSTALLED = tuple(
    {
        os.path.dirname(os.path.dirname(__file__)) + os.sep,
        *(sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")),
        *(path + os.sep for path in site.getsitepackages()),
        "<",
    }
)


def innermost_place(revision: Revision, lines: Iterable[tuple[str, int]]) -> Place | None:
    """Return the first of *lines*, each a file and a number, in the code of *revision* or its shared modules."""
    shared = {module.path for module in revision.shared.values()}
    for file, number in lines:
        relative = file.removeprefix(f"{revision.path}/")
        if relative != file or file == str(revision.path):
            own = revision.files.get(relative)
            if own is not None and own.source is not None:  # as it runs: the file may be another by now
                text = own.source.decode(errors="replace").splitlines()[number - 1 : number]
                return Place(file, number, "".join(text).strip())
        elif file not in shared:
            continue
        linecache.checkcache(file)
        return Place(file, number, linecache.getline(file, number).strip())
    return None


def outward(frame: FrameType | None) -> Iterator[FrameType]:
    """Yield *frame* and those that called it."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def own_place(error: BaseException) -> Place | None:
    """Return the innermost place outside installed packages in which *error*, or first its cause, was raised."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None and cause not in chain:
        chain.append(cause)
    for each in reversed(chain):
        for frame in reversed(tracebacks.extract_tb(each.__traceback__)):
            if not frame.filename.startswith(_INSTALLED):
                return Place(frame.filename, frame.lineno or 1, (frame.line or "").strip())
    return None
