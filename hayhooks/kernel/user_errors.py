"""User errors: an exception of the user's code as people read it: headline, causes, and place in their files."""

import re
from collections.abc import Iterator
from types import FrameType
from typing import Any

from hayhooks.errors import Place, StreamCall, each_frame, safe_str, traceback_of, type_and_message
from hayhooks.kernel.places import UserFiles, frames_of, place_of_definition
from hayhooks.kernel.templates import (
    INVALID,
    is_jinja,
    place_of_variable,
    template_line,
    template_place,
    unmet_variable,
    untold,
)

# Haystack's ValueErrors about a name in the data of a run.
WRONG_NAME = re.compile(
    r"Input '(?P<input>\w+)' not found in component '(?P<of>[^']+)'"
    r"|[Cc]omponent named '?(?P<component>[\w.-]+)'? not found in the pipeline"
)
_MAX_CHAIN = 50  # errors
_PLACE = "__hayhooks_place__"  # of a component of a YAML pipeline
_REPORTS = frozenset({"PipelineRuntimeError", "ToolInvocationError"})  # Haystack's, around an error of the user's code


def headline(error: BaseException, *, with_component: bool = True) -> str:
    """Return type and message of *error*, as the last line of a traceback, and the tool and component that raised it.

    Haystack's errors around it are left out; a group ends with its first error.
    """
    reports = _reports(error)
    origin = reports[-1]
    message = safe_str(origin) if not is_jinja(origin) else safe_str(getattr(origin, "message", origin))
    if isinstance(origin, BaseExceptionGroup):  # its own message says only how many it has
        message += f": {headline(origin.exceptions[0], with_component=False)}"
    where = _raisers(reports) if with_component else []
    if (line := template_line(origin)) is not None:
        where.insert(0, f"line {line} of the template")
    if where:
        message = f"{message.removesuffix('.')}, in {' of '.join(where)}"
    return f"{type(origin).__name__}: {message}".removesuffix(": ").replace(": , in ", ", in ")


def chained(error: BaseException) -> list[tuple[str, BaseException]]:
    """Return what led to *error*, the nearest first, and how: "caused by", "while handling", "1 of 2"."""
    reports = _reports(error)
    return [(how, linked) for how, linked in _links(error) if all(linked is not each for each in reports)]


def cause_lines(error: BaseException, files: UserFiles) -> Iterator[str]:
    """Yield a line for each error that led to *error*, with the line of the user's *files* it came from."""
    last = " ".join(headline(error, with_component=False).split())
    for how, linked in chained(error):
        text, place = " ".join(headline(linked, with_component=False).split()), place_of(linked, files)
        if text != last:  # libraries raise an error of theirs with the same text
            yield f"{how} {text}  ({place.short})" if place else f"{how} {text}"
        last = text


def place_of(error: BaseException, files: UserFiles) -> Place | None:
    """Return where in the user's *files* the cause of *error* is.

    That is the innermost frame of the first error of the chain that their code raised, else of the last one that went
    through it, else where they have asked for the stream. For a template it is its line, for a component of a YAML
    pipeline the line of its key, for a name in the data of a run the line that has it. For a component that fails by
    itself, as in its warm-up, it is the line that makes one of its class.
    """
    chain, near = chain_of(error), files_near(error)
    if (place := next((place for each in chain if (place := _told_place(each, near, files))), None)) is not None:
        return place
    for each in chain:
        raised_at = next(((frame.f_code.co_filename, line) for frame, line in frames_of(each)), None)
        if isinstance(each, SyntaxError) and each.filename:
            raised_at = (each.filename, each.lineno or 1)
        if raised_at is not None and (place := files.place(*raised_at)) is not None:
            return place
    for each in reversed(chain):
        for frame, line in frames_of(each):
            place = files.place(frame.f_code.co_filename, line) or getattr(_component_in(frame), _PLACE, None)
            if place is not None:
                return _line_of_name(each, place, files)
    return next(_places_of_calls(chain, files), None) or next(_places_of_components(chain, near, files), None)


def _told_place(error: BaseException, near: list[str], files: UserFiles) -> Place | None:
    """Return the line of a template, or the component, that *error* itself tells of."""
    if (place := template_place(error, near, files)) is not None:
        return place
    if (unmet := unmet_variable(error)) is not None and unmet.meant:
        return place_of_variable(unmet.component, unmet.name, near, files)
    run = getattr(getattr(error, "component_type", None), "run", None)
    return place_of_definition(run) if run is not None and "an invalid output" in safe_str(error) else None


def _places_of_calls(chain: list[BaseException], files: UserFiles) -> Iterator[Place]:
    """Yield the tools that Haystack has called in *chain*, with wrong arguments, and where streams were asked for."""
    for each in chain:
        for tool in (frame.f_locals.get("self") for frame, _ in frames_of(each)):
            functions = (getattr(tool, name, None) for name in ("function", "async_function"))
            places = (
                place_of_definition(function) for function in functions if hasattr(tool, "tool_spec") and function
            )
            yield from (place for place in places if place is not None)
        call = stream_call(each)
        if call is not None and (place := files.place(call.file, call.line)) is not None:
            yield _line_of_name(each, place, files)


def _places_of_components(chain: list[BaseException], near: list[str], files: UserFiles) -> Iterator[Place]:
    """Yield the lines of the user's *files* that make components like those in which *chain* was raised."""
    frames = [frame for each in chain for frame, _ in frames_of(each)]
    for component in filter(None, map(_component_in, frames)):
        made = re.compile(rf"^(?!\s*(class|from|import|#)\b).*\b{re.escape(type(component).__name__)}\(")
        for file, text in files.texts(near):
            lines = enumerate(text.splitlines() if file.endswith(".py") else [], 1)
            yield from (Place(file, number, line.strip()) for number, line in lines if made.match(line))


def stream_call(error: BaseException) -> StreamCall | None:
    """Return where the user's code has asked for the stream in which *error* was raised."""
    return getattr(error, "__hayhooks_call__", None)


def _line_of_name(error: BaseException, place: Place, files: UserFiles) -> Place:
    """Return the line nearest to *place* that has the wrong name of a run's data, if *error* is about one."""
    found = WRONG_NAME.search(safe_str(error)) if isinstance(error, ValueError) else None
    if found is None:
        return place
    text = next((text for file, text in files.texts([place.file]) if file == place.file), "")
    quoted = [f"{quote}{found['input'] or found['component']}{quote}" for quote in "'\""]
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if any(name in line for name in quoted)]
    number, line = min(lines, key=lambda numbered: abs(numbered[0] - place.line), default=(place.line, place.source))
    return Place(place.file, number, line.strip())


def origin_in(error: BaseException, files: UserFiles) -> BaseException:
    """Return what *error* reports, and leave it, and what led to it, the frames of the user's *files* alone.

    One without such frames keeps the innermost.
    """
    for each in chain_of(error):
        frames = list(each_frame(each.__traceback__))
        own = [frame for frame in frames if files.place(frame.tb_frame.f_code.co_filename, frame.tb_lineno)]
        each.__traceback__ = traceback_of(own or frames[-1:])
    return _reports(error)[-1]


def files_near(error: BaseException) -> list[str]:
    """Return the files of the code that *error*, and what led to it, went through, those of YAML pipelines first."""
    frames = [frame for each in chain_of(error) for frame, _ in frames_of(each)]
    keys: list[Any] = [getattr(_component_in(frame), _PLACE, None) for frame in frames]
    calls = [call.file for each in chain_of(error) if (call := stream_call(each)) is not None]
    ran = [frame.f_code.co_filename for frame in frames]
    return list(dict.fromkeys([*(key.file for key in keys if key), *calls, *ran]))


def _reports(error: BaseException) -> list[BaseException]:
    """Return *error*, and below it what it only reports, down to the origin."""
    found = [error]
    while (cause := _cause(found[-1])) is not None and len(found) < _MAX_CHAIN:
        text = safe_str(found[-1])
        is_carrier = type(found[-1]) is RuntimeError and text == type_and_message(cause)  # of a SystemExit
        # Components tell a whole template, and its values, in front of what Jinja says.
        is_long = is_jinja(cause) and (text.endswith(safe_str(cause)) or text.startswith(INVALID))
        if not (is_carrier or is_long or type(found[-1]).__name__ in _REPORTS):
            break
        found.append(cause)
    return found


def chain_of(error: BaseException) -> list[BaseException]:
    """Return *error* and all that led to it."""
    return [error, *(linked for _, linked in _links(error))]


def _links(error: BaseException) -> list[tuple[str, BaseException]]:
    known, found = [error], []
    for each in known:  # it grows
        links: list[tuple[str, BaseException | None]]
        if isinstance(each, BaseExceptionGroup):
            links = [(f"{number} of {len(each.exceptions)}", one) for number, one in enumerate(each.exceptions, 1)]
        elif (cause := _cause(each)) is not None:
            links = [("caused by", cause)]
        else:
            links = [("while handling", None if each.__suppress_context__ else each.__context__)]
        for how, linked in links:
            if linked is not None and all(linked is not one for one in known) and len(known) < _MAX_CHAIN:
                known.append(linked)
                found.append((how, linked))
    return found


def _cause(error: BaseException) -> BaseException | None:
    if error.__cause__ is None and (said := untold(error)) is not None:
        error.__cause__ = said
    return error.__cause__


def _component_in(frame: FrameType) -> Any:
    """Return the component whose method runs in *frame*, if it is one's."""
    this = frame.f_locals.get("self")
    return this if "__haystack_input__" in getattr(this, "__dict__", {}) else None


def _raisers(reports: list[BaseException]) -> list[str]:
    """Return where the last of *reports* was raised: a component, the tool that ran it, the tool's Agent, and so on."""
    names = []
    for report in reversed(reports[:-1]):
        if name := getattr(report, "tool_name", ""):
            names.append(f"tool {name!r}")
        elif kind := getattr(report, "component_type", None):
            names.append(f"component {getattr(report, 'component_name', '')!r} ({kind.__name__})")
    components = [each for frame, _ in frames_of(reports[-1]) if (each := _component_in(frame)) is not None]
    named = next((each for each in components if "__component_name__" in vars(each)), None)  # in a pipeline
    told = f"component {named.__component_name__!r} ({type(named).__name__})" if named is not None else ""
    if told and told not in names:
        names.insert(0, told)
    if components and components[0] is not named:
        names.insert(0, type(components[0]).__name__)
    return names
