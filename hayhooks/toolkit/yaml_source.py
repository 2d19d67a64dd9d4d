"""Parse a YAML pipeline and remember line numbers, so that every error names its key and line."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from hayhooks.errors import LoadError, Place, closest
from hayhooks.wrapper import SWITCHES

_MAX_LINE_CHARACTERS = 200  # of the source line in an error
_MAX_DEPTH = 500
_MAX_VALUES = 200_000  # after alias expansion: a few lines of aliases can expand to millions

_MAX_HEAD = 2**20  # bytes, in which a pipeline has its components
_QUICK_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # its errors do not say enough for people
_COMPONENTS_KEY = re.compile(rb"""^(\{\s*)?["']?components["']?\s*:""", re.MULTILINE)

_SECTIONS = {
    "components": dict,
    "connections": list,
    "inputs": dict,
    "outputs": dict,
    "answers": str,
    "chat": str,
    "description": str,
    "max_runs_per_component": int,
    "connection_type_validation": bool,
    "metadata": dict,
    **dict.fromkeys(SWITCHES, bool),
    "a2a_card": dict,
}
_KEYS = (*_SECTIONS, "streaming_components")
_ENDS = ("sender", "receiver")  # of a connection
_TYPE_NAMES = {
    dict: "a mapping (name: value)",
    list: "a list (- item)",
    str: "a string",
    int: "an integer",
    bool: "true or false",
}


class _Loader(yaml.SafeLoader):
    """Plain YAML values, and the Python tuples that ``Pipeline.dumps`` writes."""

    def construct_tuple(self, node: yaml.SequenceNode) -> tuple[Any, ...]:
        return tuple(self.construct_sequence(node, deep=True))


_Loader.add_constructor("tag:yaml.org,2002:python/tuple", _Loader.construct_tuple)


class YamlSource:
    """A parsed YAML pipeline whose sections have the right types; else a LoadError is raised."""

    def __init__(self, content: bytes | str, file: str = "") -> None:
        self.file = file  # for error messages; "" if there is none
        self._lines: list[str] = []
        try:
            text = content if isinstance(content, str) else content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1 if isinstance(content, bytes) else 1
            raise self.error_at(line, f"not valid UTF-8: {error.reason}") from None
        self._lines = text.splitlines()
        self._root, data = self._parse(text)
        if not isinstance(data, dict) or "components" not in data:
            expected = "not a pipeline: expected the key components"
            if isinstance(data, dict) and (
                close := closest("components", (key for key in data if isinstance(key, str)))
            ):
                raise self.error(f"{expected}; did you mean 'components' instead of {close!r}?", close)
            raise self.error_at(1, f"{expected}, with connections, inputs and outputs (see docs/yaml.md)")
        self.data: dict[str, Any] = data  # "components" maps at least one name to a mapping with a "type"
        self._check_sections()

    def error(self, message: str, *path: str | int) -> LoadError:
        """Return an error located at the key *path*, or at its closest parent that exists."""
        return self.error_at(self.line_of(*path), message)

    def error_at(self, line: int, message: str) -> LoadError:
        """Return an error located at *line*, counted from 1."""
        return LoadError(f"{Path(self.file).name or 'YAML'}:{line}: {message}", place=self._place(line))

    def place_of(self, *path: str | int) -> Place | None:
        """Return the place of the key *path*, or of its closest parent that exists; None if there is no file."""
        return self._place(self.line_of(*path))

    def line_with(self, lines: Sequence[str], *path: str | int) -> int:
        """Return the first line from the key *path* on that has one of *lines*, of templates; else the key's."""
        return self._line_where(lambda line: any(each.strip() in line for each in lines), *path)

    def line_of_variable(self, name: str, *path: str | int) -> int:
        """Return the first line from the key *path* on that has *name* in a template's expression; else the key's."""
        found = re.compile(rf"\{{[{{%](?:[^}}]*[^\w.}}])?{re.escape(name)}\b").search
        return self._line_where(lambda line: found(line) is not None, *path)

    def _line_where(self, is_it: Callable[[str], bool], *path: str | int) -> int:
        first = self.line_of(*path)
        return next((number for number, line in enumerate(self._lines[first:], first + 1) if is_it(line)), first)

    def _place(self, line: int) -> Place | None:
        source = self._lines[line - 1].strip()[:_MAX_LINE_CHARACTERS] if line <= len(self._lines) else ""
        return Place(self.file, line, source) if self.file else None

    def line_of(self, *path: str | int) -> int:
        """Return the line of the key or list item at *path*, or of its closest parent that exists."""
        node, line = self._root, 1
        for step in path:
            if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
                key = node = node.value[step]
            elif isinstance(node, yaml.MappingNode):
                pairs = (pair for pair in node.value if pair[0].value == str(step))
                key, node = next(pairs, (None, None))
            else:
                key = None
            if key is None:
                break
            line = _line(key)
        return line

    def section(self, name: str) -> Any:
        """Return the value of the top-level key *name*; empty if it is missing or null."""
        value = self.data.get(name)
        return _SECTIONS[name]() if value is None else value

    def _parse(self, text: str) -> tuple[yaml.Node | None, Any]:
        """Return the node tree, which knows lines, and the values."""
        try:
            if sum(map(text.count, ("[", "{", "- "))) > _MAX_DEPTH:
                with suppress(yaml.YAMLError):  # which is told below, and better
                    list(_top_keys(text.encode()))
            root: yaml.Node | None = yaml.compose(text, Loader=_Loader)
            if root is not None:
                self._check_tree(root)
            return root, yaml.load(text, Loader=_Loader)  # noqa: S506 - it is a SafeLoader
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            reason = ", ".join(part for part in (error.context, error.problem) if part)
            found = self.error_at(mark.line + 1 if mark else 1, f"invalid YAML: {reason}")
            if found.place is not None and re.search(r":\s*{{", found.place.source):
                found.hint = "a value that begins with {{ needs quotes, or | and a line of its own"
            raise found from None
        except yaml.reader.ReaderError as error:
            line = text[: error.position].count("\n") + 1
            raise self.error_at(line, f"invalid YAML: character not allowed: {error.reason}") from None
        except (ValueError, OverflowError) as error:  # an impossible date or number, without a line
            raise self.error_at(1, f"invalid YAML: {error}") from None
        except RecursionError:
            raise self.error_at(1, "invalid YAML: nested too deeply") from None

    def _check_tree(self, root: yaml.Node) -> None:
        """Reject duplicate keys, recursive aliases and exponential alias expansion."""
        sizes: dict[int, int] = {}
        ancestors: set[int] = set()

        def size(node: yaml.Node) -> int:
            if id(node) in ancestors:
                raise self.error_at(_line(node), "an alias refers to a node that contains it")
            if id(node) not in sizes:
                ancestors.add(id(node))
                children = node.value if isinstance(node, yaml.SequenceNode) else []
                if isinstance(node, yaml.MappingNode):
                    first: dict[str, yaml.Node] = {}
                    for key, _ in node.value:
                        if isinstance(key, yaml.ScalarNode) and first.setdefault(key.value, key) is not key:
                            message = f"duplicate key {key.value!r}, first in line {_line(first[key.value])}"
                            raise self.error_at(_line(key), message)
                    children = [child for pair in node.value for child in pair]
                sizes[id(node)] = 1 + sum(map(size, children))
                ancestors.discard(id(node))
            return sizes[id(node)]

        if size(root) > _MAX_VALUES:
            raise self.error_at(1, f"more than {_MAX_VALUES:,} values after alias expansion")

    def _check_sections(self) -> None:
        for key in self.data:
            if key not in _KEYS and (close := closest(key, [known for known in _KEYS if known not in self.data])):
                raise self.error(f"unknown key {key!r}; did you mean {close!r}?", key)
        for name, type_ in _SECTIONS.items():
            if not isinstance(self.data.get(name), type_ | None):
                raise self.error(f"{name} must be {_TYPE_NAMES[type_]}", name)
        self._check_components()
        for index, connection in enumerate(self.section("connections")):
            ends = connection if isinstance(connection, dict) else {}
            for key in ends:
                if key not in _ENDS and (close := closest(key, _ENDS)):
                    raise self.error(f"unknown key {key!r}; did you mean {close!r}?", "connections", index, key)
            if not all(isinstance(ends.get(end), str) for end in _ENDS):
                message = "a connection needs sender and receiver, each as component.socket"
                raise self.error(message, "connections", index)

    def _check_components(self) -> None:
        components = self.section("components")
        if not components:
            raise self.error("components is empty: a pipeline needs at least one", "components")
        for name, component in components.items():
            path = ("components", name)
            if not isinstance(name, str) or "." in name:
                raise self.error(f"invalid component name {name!r}: expected a string without a dot", *path)
            if not isinstance(component, dict) or not isinstance(component.get("type"), str):
                raise self.error(f"component {name!r} needs a type, such as haystack.components...", *path)
            if not isinstance(component.get("init_parameters"), dict | None):
                message = f"component {name!r}: init_parameters must be {_TYPE_NAMES[dict]}"
                raise self.error(message, *path, "init_parameters")


def is_meant_as_pipeline(content: bytes) -> bool:
    """Whether the YAML *content* has the key ``components`` at its top level, or one that is misspelled.

    OpenAPI documents have it too, and are none.
    """
    try:
        keys = set(_top_keys(content[:_MAX_HEAD]))
    except (yaml.YAMLError, ValueError):  # a pipeline in the making, perhaps
        return _COMPONENTS_KEY.search(content) is not None
    return "openapi" not in keys and any(get_close_matches("components", keys, n=1, cutoff=0.85))


def _top_keys(content: bytes) -> Iterator[str]:
    """Yield the keys of the mapping that *content* is; ValueError if it is nested too deeply."""
    # By events: to compose nodes, the loader in C calls itself for each level, until the process crashes. And each
    # level costs as much as all around it.
    depth, is_key = 0, True
    for event in yaml.parse(content, Loader=_QUICK_LOADER):
        if isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.NodeEvent):
            if depth == 0 and not isinstance(event, yaml.MappingStartEvent):
                return
            if depth == 1:
                if is_key and isinstance(event, yaml.ScalarEvent):
                    yield event.value
                is_key = not is_key
            depth += isinstance(event, yaml.CollectionStartEvent)
            if depth > _MAX_DEPTH:
                raise ValueError("nested too deeply")


def suggestion(name: str, names: Iterable[str]) -> str:
    """Return the end of an error about the unknown *name*: the most similar of *names*, or all of them."""
    names = list(names)
    close = closest(name, names)
    return f"did you mean {close!r}?" if close else f"available: {', '.join(names) or 'none'}"


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
