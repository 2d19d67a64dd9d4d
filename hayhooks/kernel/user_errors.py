"""User errors: an exception of the user's code as people read it: headline, causes, and place in their files."""

import traceback as tracebacks
from collections.abc import Iterator
from types import FrameType
from typing import Any

from hayhooks.errors import Place, safe_str, type_and_message
from hayhooks.kernel.places import UserFiles

_MAX_CHAIN = 50  # errors
_TEMPLATE = "<template>"  # the file name of Jinja's templates that are strings
_PLACE = "__hayhooks_place__"  # of a component of a YAML pipeline


def headline(error: BaseException, *, with_component: bool = True) -> str:
    """Return type and message of *error*, as the last line of a traceback, and the component that raised it.

    Haystack's error around that of a component is left out; a group ends with its first error.
    """
    origin = _origin(error)
    message = safe_str(origin) if not _is_jinja(origin) else safe_str(getattr(origin, "message", origin))
    if isinstance(origin, BaseExceptionGroup):  # its own message says only how many it has
        message += f": {headline(origin.exceptions[0], with_component=False)}"
    where = _component(origin, error) if with_component else ""
    if (line := _template_line(origin)) is not None:
        where = f"line {line} of the template" + (f" of {where}" if where else "")
    return f"{type(origin).__name__}: {message}".removesuffix(": ") + (f", in {where}" if where else "")


def chained(error: BaseException) -> list[tuple[str, BaseException]]:
    """Return what led to *error*, the nearest first, and how: "caused by", "while handling", "1 of 2"."""
    links, origin = _links(error), _origin(error)
    return [(how, linked) for how, linked in links if linked is not origin and not _is_report(linked)]


def cause_lines(error: BaseException, files: UserFiles) -> Iterator[str]:
    """Yield a line for each error that led to *error*, with the line of the user's *files* it came from."""
    last = " ".join(headline(error, with_component=False).split())
    for how, linked in chained(error):
        text, place = " ".join(headline(linked, with_component=False).split()), place_of(linked, files)
        if text != last:  # libraries raise an error of theirs with the same text
            yield f"{how} {text}  ({place.file.rpartition('/')[2]}:{place.line})" if place else f"{how} {text}"
        last = text


def place_of(error: BaseException, files: UserFiles) -> Place | None:
    """Return where in the user's *files* the cause of *error* is.

    That is the innermost frame of the first error of the chain that their code raised, else of the last one that went
    through it. For a template it is its line, for a component of a YAML pipeline the line of its key.
    """
    chain = [error, *(linked for _, linked in _links(error))]
    for each in chain:
        if (place := _template_place(each, chain, files)) is not None:
            return place
    for each in chain:
        raised_at = next(((frame.f_code.co_filename, line) for frame, line in _frames(each)), None)
        if isinstance(each, SyntaxError) and each.filename:
            raised_at = (each.filename, each.lineno or 1)
        if raised_at is not None and (place := files.place(*raised_at)) is not None:
            return place
    for each in reversed(chain):
        for frame, line in _frames(each):
            place = files.place(frame.f_code.co_filename, line) or getattr(_component_in(frame), _PLACE, None)
            if place is not None:
                return place
    return None


def _is_report(error: BaseException) -> bool:
    """Whether *error* only reports its cause: Haystack's error around a component's, or a carrier of a SystemExit."""
    cause = error.__cause__
    if cause is None:
        return False
    is_carrier = type(error) is RuntimeError and str(error) == type_and_message(cause)
    return is_carrier or type(error).__name__ == "PipelineRuntimeError"


def _origin(error: BaseException) -> BaseException:
    """Return what *error* reports, else *error*."""
    return _origin(error.__cause__) if _is_report(error) and error.__cause__ else error


def _links(error: BaseException) -> list[tuple[str, BaseException]]:
    known, found = [error], []
    for each in known:  # it grows
        links: list[tuple[str, BaseException | None]]
        if isinstance(each, BaseExceptionGroup):
            links = [(f"{number} of {len(each.exceptions)}", one) for number, one in enumerate(each.exceptions, 1)]
        elif each.__cause__ is not None:
            links = [("caused by", each.__cause__)]
        else:
            links = [("while handling", None if each.__suppress_context__ else each.__context__)]
        for how, linked in links:
            if linked is not None and all(linked is not one for one in known) and len(known) < _MAX_CHAIN:
                known.append(linked)
                found.append((how, linked))
    return found


def _frames(error: BaseException) -> Iterator[tuple[FrameType, int]]:
    """Yield the frames and lines that *error* went through, the innermost first."""
    return reversed(list(tracebacks.walk_tb(error.__traceback__)))


def _component_in(frame: FrameType) -> Any:
    """Return the component whose method runs in *frame*, if it is one's."""
    this = frame.f_locals.get("self")
    return this if "__haystack_input__" in _fields(this) else None


def _component(origin: BaseException, error: BaseException) -> str:
    """Return which of Haystack's components raised *origin*; "" if none did. *error* is Haystack's, if it has one."""
    components = [each for frame, _ in _frames(origin) if (each := _component_in(frame)) is not None]
    if not components:  # it failed before its first line
        name, kind = getattr(error, "component_name", None), getattr(error, "component_type", None)
        return f"component {name!r} ({kind.__name__})" if error is not origin and kind else ""
    innermost = components[0]
    name = type(innermost).__name__
    named = next((each for each in components if "__component_name__" in vars(each)), None)  # in a pipeline
    if named is None:
        return name
    place = f"component {named.__component_name__!r}"
    return f"{place} ({name})" if named is innermost else f"{name} in {place}"


# ------------------------------------------------------------------------------------------------ templates


def _is_jinja(error: BaseException) -> bool:
    return type(error).__module__.startswith("jinja2.")


def _template_line(error: BaseException) -> int | None:
    """Return the line, from 1, of the template in which *error* was raised; None if in none."""
    lines = [line for frame, line in _frames(error) if frame.f_code.co_filename == _TEMPLATE]
    if lines:
        return lines[0]
    line = getattr(error, "lineno", None) if _is_jinja(error) else None
    return line if isinstance(line, int) else None


def _template_place(error: BaseException, chain: list[BaseException], files: UserFiles) -> Place | None:
    """Return where the line of a template in which *error* was raised stands in the user's *files*."""
    number = _template_line(error)
    if number is None:
        return None
    line = next((text.splitlines()[number - 1].strip() for text in _templates(error, number)), "")
    frames = [frame for each in chain for frame, _ in _frames(each)]
    keys: list[Any] = [getattr(_component_in(frame), _PLACE, None) for frame in frames]
    near = dict.fromkeys([*(key.file for key in keys if key), *(frame.f_code.co_filename for frame in frames)])
    for file, text in files.texts(near) if line else ():
        found = [index for index, source in enumerate(text.splitlines(), 1) if line in source]
        if len(found) == 1:
            return Place(file, found[0], line)
    return None


def _templates(error: BaseException, number: int) -> Iterator[str]:
    """Yield texts that may be the template of *error*: those in its frames whose line *number* is of a template."""
    for frame, _ in _frames(error):
        values = [
            getattr(error, "source", None),
            *frame.f_locals.values(),
            *_fields(frame.f_locals.get("self")).values(),
        ]
        for value in [*values, *(_fields(each).get("text") for each in values)]:
            lines = value.splitlines() if isinstance(value, str) else []
            if len(lines) >= number and "{" in lines[number - 1]:
                yield value


def _fields(value: Any) -> dict[str, Any]:
    return getattr(value, "__dict__", {})
