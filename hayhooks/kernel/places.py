"""Places: where in the user's code a thread or an error is."""

import linecache
from collections.abc import Iterable, Iterator
from types import FrameType

from hayhooks.errors import Place
from hayhooks.kernel.state import Revision


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
