"""A pipeline in YAML as text: its values, and the line of each, so that a fault is told with its key and its line."""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from hayhooks.errors import LoadError, Place

_LONGEST_LINE = 200  # characters of one that is shown
_MOST_VALUES = 200_000  # what aliases stand for counted too: a few lines of them can mean millions

_SECTIONS = {
    "components": dict,
    "connections": list,
    "inputs": dict,
    "outputs": dict,
    "chat": str,
    "description": str,
    "max_runs_per_component": int,
    "connection_type_validation": bool,
    "metadata": dict,
}
_KEYS = (*_SECTIONS, "streaming_components")
_KINDS = {
    dict: "a mapping, name: value",
    list: "a list, - item",
    str: "a text",
    int: "a whole number",
    bool: "true or false",
}


class _Loader(yaml.SafeLoader):
    """YAML of plain values, and the tuples that Haystack writes."""

    def tuple_of(self, node: yaml.SequenceNode) -> tuple[Any, ...]:
        return tuple(self.construct_sequence(node, deep=True))


_Loader.add_constructor("tag:yaml.org,2002:python/tuple", _Loader.tuple_of)


class YamlSource:
    """What a YAML file says, and where.

    Args:
        content: of the file.
        file: its path, "" if there is none.

    Attributes:
        data: the values; ``components`` is in it and holds an object with a ``type`` for each name.

    Raises:
        LoadError: it is no YAML, or no pipeline.
    """

    def __init__(self, content: bytes | str, file: str = "") -> None:
        self.file = file
        self._lines: list[str] = []
        try:
            text = content if isinstance(content, str) else content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1 if isinstance(content, bytes) else 1
            raise self.error_at(line, f"is not UTF-8: {error.reason}") from None
        self._lines = text.splitlines()
        self._root = self._composed(text)
        self.data: dict[str, Any] = self._constructed(text)
        self._check_sections()

    def error(self, message: str, *path: str | int) -> LoadError:
        """A failure at what *path* leads to, or as far as that leads; *message* says what is wrong and what to do."""
        return self.error_at(self.line_of(*path), message)

    def error_at(self, line: int, message: str) -> LoadError:
        """A failure at *line*, counted from 1."""
        source = self._lines[line - 1].strip()[:_LONGEST_LINE] if line <= len(self._lines) else ""
        place = Place(self.file, line, source) if self.file else None
        return LoadError(f"{Path(self.file).name or 'YAML'}:{line}: {message}", place=place)

    def line_of(self, *path: str | int) -> int:
        """The line of the key, or the item, that *path* leads to; of the last that is there where it leads nowhere."""
        node, line = self._root, 1
        for step in path:
            found = _step(node, step)
            if found is None:
                break
            key, node = found
            line = key.start_mark.line + 1
        return line

    def section(self, name: str) -> Any:
        """The value of the top-level key *name*; empty where it is not there, or null."""
        value = self.data.get(name)
        return _SECTIONS[name]() if value is None else value

    def _composed(self, text: str) -> yaml.Node | None:
        """The tree of *text*, which no key is twice in, and which is not too large to be walked."""
        try:
            root: yaml.Node | None = yaml.compose(text, Loader=_Loader)
            if root is not None:
                self._check_tree(root)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            what = ", ".join(part for part in (error.context, error.problem) if part)
            raise self.error_at(mark.line + 1 if mark else 1, f"is no valid YAML: {what}") from None
        except yaml.reader.ReaderError as error:
            line = text[: error.position].count("\n") + 1
            raise self.error_at(
                line, f"is no valid YAML: it has a character that may not be there: {error.reason}"
            ) from None
        except RecursionError:
            raise self.error_at(1, "is nested too deeply to be read") from None
        return root

    def _check_tree(self, root: yaml.Node) -> None:
        sizes: dict[int, int] = {}
        within: set[int] = set()

        def size(node: yaml.Node) -> int:
            if id(node) in within:
                raise self.error_at(node.start_mark.line + 1, "an alias stands for what it is a part of")
            if id(node) not in sizes:
                within.add(id(node))
                sizes[id(node)] = 1 + sum(map(size, self._children(node)))
                within.discard(id(node))
            return sizes[id(node)]

        if size(root) > _MOST_VALUES:
            raise self.error_at(1, f"stands for more than {_MOST_VALUES:,} values, with what its aliases mean")

    def _children(self, node: yaml.Node) -> list[yaml.Node]:
        if isinstance(node, yaml.SequenceNode):
            return list(node.value)
        if not isinstance(node, yaml.MappingNode):
            return []
        first: dict[str, yaml.Node] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and first.setdefault(key.value, key) is not key:
                there = first[key.value].start_mark.line + 1
                raise self.error_at(key.start_mark.line + 1, f"{key.value!r} stands here again, as in line {there}")
        return [child for pair in node.value for child in pair]

    def _constructed(self, text: str) -> dict[str, Any]:
        try:
            data = yaml.load(text, Loader=_Loader)  # noqa: S506 - it is a SafeLoader
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            raise self.error_at(mark.line + 1 if mark else 1, f"cannot be read: {error.problem}") from None
        except (ValueError, OverflowError) as error:  # of a date or a number that there is not
            raise self.error_at(1, f"cannot be read: {error}") from None
        if not isinstance(data, dict) or "components" not in data:
            raise self.error_at(
                1, "is no pipeline: one has components, with connections, inputs and outputs (see docs/yaml.md)"
            )
        return data

    def _check_sections(self) -> None:
        for key in self.data:
            if key not in _KEYS and (close := nearest(key, [known for known in _KEYS if known not in self.data])):
                raise self.error(f"there is no key {key!r}; did you mean {close!r}?", key)
        for name, kind in _SECTIONS.items():
            if not isinstance(self.data.get(name), kind | None):
                raise self.error(f"{name} must be {_KINDS[kind]}", name)
        self._check_components()
        for index, connection in enumerate(self.section("connections")):
            ends = connection if isinstance(connection, dict) else {}
            if not all(isinstance(ends.get(end), str) for end in ("sender", "receiver")):
                message = "a connection has a sender and a receiver, as component.socket"
                raise self.error(message, "connections", index)

    def _check_components(self) -> None:
        components = self.section("components")
        if not components:
            raise self.error("components is empty: a pipeline has one at least", "components")
        for name, component in components.items():
            if not isinstance(name, str) or "." in name:
                message = f"a component cannot be called {name!r}: that must be a text without a dot"
                raise self.error(message, "components", name)
            if not isinstance(component, dict) or not isinstance(component.get("type"), str):
                raise self.error(f"component {name!r} must have a type, as haystack.components...", "components", name)
            if not isinstance(component.get("init_parameters"), dict | None):
                message = f"component {name!r}: init_parameters must be a mapping, name: value"
                raise self.error(message, "components", name, "init_parameters")


def nearest(name: Any, names: Iterable[str]) -> str:
    """The one of *names* that *name* was probably meant to be; "" if none is like it."""
    return next(iter(get_close_matches(str(name), list(names), n=1, cutoff=0.7)), "")


def _step(node: yaml.Node | None, step: str | int) -> tuple[yaml.Node, yaml.Node] | None:
    """The key and the value at *step* in *node*; of an item of a list that itself is its key."""
    if isinstance(node, yaml.SequenceNode):
        is_there = isinstance(step, int) and step < len(node.value)
        return (node.value[step], node.value[step]) if is_there else None
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return next((pair for pair in pairs if pair[0].value == str(step)), None)
