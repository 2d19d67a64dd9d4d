"""Templates: the line of a Jinja template that an error is about, in the files of the user."""

import re
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any, NamedTuple

from hayhooks.errors import Place, closest, safe_str
from hayhooks.kernel.places import UserFiles, frames_of

TEMPLATE = "<template>"  # the file name of Jinja's templates that are strings
_EXPRESSION = re.compile(r"\{[{%].*?[%}]\}", re.DOTALL)
_ATTRIBUTE = re.compile(r"\{\{[-+]?\s*(\w+)\.(\w+)")
_NAME = re.compile(r"""(?:'[^']*'|"[^"]*")|(?<![\w.])([A-Za-z_]\w*)""")  # or a text, which has none
_UNMET = re.compile(  # Haystack's ValueErrors about an input that nobody gives
    r"Missing mandatory input '(?P<input>\w+)' for component '(?P<component>[^']+)'"
    r"|Missing required input variables in \w+: (?P<variable>\w+)"
)
INVALID = "Invalid template for "  # begins an error of Haystack's ConditionalRouter
_MAX_DEPTH = 6  # of the objects in which the templates of a component are looked for
_MAX_VALUES = 1_000


def is_jinja(error: BaseException) -> bool:
    """Whether Jinja has raised *error*."""
    return type(error).__module__.startswith("jinja2.")


def template_line(error: BaseException) -> int | None:
    """Return the line, from 1, of the template in which *error* was raised; None if in none."""
    lines = [line for frame, line in frames_of(error) if frame.f_code.co_filename == TEMPLATE]
    if lines:
        return lines[0]
    line = getattr(error, "lineno", None) if is_jinja(error) else None
    return line if isinstance(line, int) else None


def template_place(error: BaseException, near: Iterable[str], files: UserFiles) -> Place | None:
    """Return where the line of a template in which *error* was raised stands in the user's *files*."""
    number = template_line(error)
    found = ((text, number) for text in _raised_in(error, number)) if number is not None else ()
    return _first_place(found, near, files)


def untold(error: BaseException) -> BaseException | None:
    """Return what Jinja says of the template that *error*, of Haystack's ConditionalRouter, only calls invalid."""
    kind, _, template = (str(error.args[0]) if type(error) is ValueError and error.args else "").partition(": ")
    for frame, _ in frames_of(error) if kind.startswith(INVALID) else ():
        if (environment := getattr(frame.f_locals.get("self"), "_env", None)) is not None:
            try:
                environment.parse(template)
            except Exception as said:
                return said
    return None


class Unmet(NamedTuple):
    """A variable of a template, an input of *component*, that nobody has given."""

    component: Any
    name: str
    meant: str  # the name that its template has, or that was given, in its place; "" for none


def unmet_variable(error: BaseException) -> Unmet | None:
    """Return the variable of a template that nobody gives, if that is what *error* says."""
    found = _UNMET.search(message := safe_str(error)) if isinstance(error, ValueError) else None
    if found is None:
        return None
    name = found["input"] or found["variable"]
    for this in (frame.f_locals.get("self") for frame, _ in frames_of(error)):
        component = None
        if found["variable"] and hasattr(this, "__haystack_input__"):
            component = this
        elif found["input"] and this is not None and hasattr(this, "get_component"):
            component = this.get_component(found["component"])
        if component is not None and name in (variables := variables_of(component)):
            given = re.findall(r"\w+", message.partition("Provided variables:")[2])
            text = " ".join(_templates_in(component))
            own = {each for found in re.findall(rf"for ([\w, ]+) in {name}\b", text) for each in found.split(", ")}
            return Unmet(component, name, closest(name, {*variables, *given} - {name} - own))
    return None


def variables_of(component: Any) -> set[str]:
    """Return the names in the templates of *component*: variables, and words of Jinja's."""
    expressions = (each[0] for text in _templates_in(component) for each in _EXPRESSION.finditer(text))
    return {found[1] for each in expressions for found in _NAME.finditer(each) if found[1]}


def attributes_in(error: BaseException) -> Iterator[tuple[Any, str]]:
    """Yield each object, and the name after it, that begin an expression of the template that has raised *error*."""
    frames = [frame for frame, _ in frames_of(error)]
    variables = next((frame.f_locals for frame in frames if frame.f_code.co_filename == TEMPLATE), {})
    components = (frame.f_locals.get("self") for frame in frames)
    texts = (text for each in components if hasattr(each, "__haystack_input__") for text in _templates_in(each))
    yield from ((variables[each[1]], each[2]) for each in _ATTRIBUTE.finditer(" ".join(texts)) if each[1] in variables)


def place_of_variable(component: Any, name: str, near: Iterable[str], files: UserFiles) -> Place | None:
    """Return where a template of *component* has *name* first, in the user's *files*."""
    found = (
        (text, text.count("\n", 0, expression.start() + each.start()) + 1)
        for text in _templates_in(component)
        for expression in _EXPRESSION.finditer(text)
        for each in _NAME.finditer(expression[0])
        if each[1] == name
    )
    return _first_place(found, near, files)


def _first_place(found: Iterable[tuple[str, int]], near: Iterable[str], files: UserFiles) -> Place | None:
    """Return the first of *found*, each a template and the number of a line of it, that is in *files*."""
    texts = [(file, text.splitlines()) for file, text in files.texts(near)] if found else []
    for template, number in found:
        lines = template.splitlines()
        line = lines[number - 1].strip()
        for wanted, first in ((lines, number - 1), ([line], 0)) if line else ():
            for file, source in texts:
                at = [start for start in range(len(source) - len(wanted) + 1) if _stands_at(wanted, source, start)]
                if len(at) == 1:
                    return Place(file, at[0] + first + 1, line)
    return None


def _stands_at(wanted: list[str], source: list[str], start: int) -> bool:
    """Whether the lines *wanted* are in those of *source* from *start* on, however they are indented."""
    return all(line.strip() in source[index] for index, line in enumerate(wanted, start))


def _raised_in(error: BaseException, number: int) -> Iterator[str]:
    """Yield texts that may be the template of *error*: those in its frames whose line *number* is of a template."""
    values: list[Any] = [getattr(error, "source", None)]
    for frame, _ in frames_of(error):
        this = frame.f_locals.get("self")
        values += [*frame.f_locals.values(), *(_templates_in(this) if hasattr(this, "__haystack_input__") else ())]
    for value in [*values, *(_fields(each).get("text") for each in values)]:
        lines = value.splitlines() if isinstance(value, str) else []
        if len(lines) >= number and "{" in lines[number - 1]:
            yield value


def _templates_in(component: Any) -> Iterator[str]:
    """Yield the texts in the attributes of *component*, and of what it holds, that are templates."""
    found: list[tuple[Any, int]] = [(component, 0)]
    for value, depth in found:  # it grows
        if isinstance(value, str):
            if _EXPRESSION.search(value):
                yield value
        elif depth < _MAX_DEPTH and len(found) < _MAX_VALUES:
            inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
            found += [(each, depth + 1) for each in islice(chain(inner, _fields(value).values()), _MAX_VALUES)]


def _fields(value: Any) -> dict[str, Any]:
    return getattr(value, "__dict__", {})
