"""Import hints: what to do about an import that failed, or that was forgotten.

A hint names a distribution only if it is known to provide the module: on the package index, the name of somebody's
own module belongs to a stranger.
"""

import functools
import importlib.metadata
import importlib.util
import linecache
import os
import pkgutil
import re
import sys
import traceback as tracebacks
from collections.abc import Iterator, Mapping
from contextlib import suppress
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

from hayhooks import _compat
from hayhooks.errors import closest, safe_str
from hayhooks.kernel.discovery import is_ignored
from hayhooks.kernel.import_names import (
    DISTRIBUTIONS,
    INTEGRATIONS,
    MOVED,
    OFTEN_FORGOTTEN,
    REPLACED,
    STANDARD_LIBRARY,
    STARLETTE,
)
from hayhooks.kernel.isolation import PREFIX
from hayhooks.kernel.state import Revision

_PATH_SETTING = "HAYHOOKS_ADDITIONAL_PYTHON_PATH"
_LEVELS_UP = 3  # from the pipelines directory, to look for a module of the user's own
_ENTRIES = 500  # looked at in each directory
_METADATA = (".dist-info", ".egg-info", ".egg", "EGG-INFO")  # how names of what tells of a distribution end
_PROJECT_FILES = (".git", "pyproject.toml", "setup.py")  # nothing of a project is above them

_MIGRATION = "https://docs.haystack.deepset.ai/docs/migration"
_INTEGRATIONS = "https://haystack.deepset.ai/integrations"

_HAYSTACK_COMPONENT = re.compile(r"(?<=omponent )'?haystack\.[\w.]+")
_MISSING_NAME = re.compile(
    r"cannot import name '(?P<name>\w+)' from '(?P<module>[\w.]+)'"
    r"|module '?(?P<owner>[\w.]+)'? has no attribute '?(?P<attribute>\w+)'?"
)


def import_hint(error: BaseException, revision: Revision) -> str:
    """Say what to do about *error* of the load of *revision*, if it is an import that failed; else return ""."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None and cause not in chain:
        chain.append(cause)
    text = " ".join(safe_str(each) for each in chain)
    for each in reversed(chain):
        match = _MISSING_NAME.search(safe_str(each)) if isinstance(each, ImportError | AttributeError) else None
        if match is not None:
            return _hint(match["module"] or match["owner"], match["name"] or match["attribute"], each, text, revision)
        if isinstance(each, ModuleNotFoundError) and each.name:
            return _hint(each.name, "", each, text, revision)
        if isinstance(each, ImportError) and "beyond top-level package" in safe_str(each):
            return _beyond_hint(_statement(each, "from"), revision)
    component = _HAYSTACK_COMPONENT.search(text)  # of a pipeline in YAML
    return _haystack_hint(component[0]) if component else ""


def forgotten_import(name: str) -> str:
    """Say how *name* is imported, from Haystack, hayhooks, Starlette or Python; "" for an unknown one."""
    if name in OFTEN_FORGOTTEN:
        return f"add `from {OFTEN_FORGOTTEN[name]} import {name}`"
    if name in sys.stdlib_module_names:
        return f"add `import {name}`"
    found = importlib.util.find_spec("haystack")
    exports = re.compile(rf"""["']{name}["']|^\s*from [\w.]+ import [^\n]*\b{name}\b""", re.MULTILINE)
    for root in map(Path, (found and found.submodule_search_locations) or ()):
        for init in sorted(root.rglob("__init__.py"), key=lambda path: (len(path.parts), path)):
            if exports.search(init.read_text(encoding="utf-8", errors="replace")):
                return f"add `from {'.'.join(['haystack', *init.parent.relative_to(root).parts])} import {name}`"
    homes = _compat.homes()
    return f"add `from {homes[name]} import {name}`" if name in homes else _haystack_hint(name)


def _hint(module: str, name: str, error: BaseException, text: str, revision: Revision) -> str:
    """Say what to do about *module*, or its *name*, that is missing; *text* has all messages of *error*."""
    top = module.partition(".")[0]
    statement = _statement(error, top)
    match top:
        case "haystack":
            missing = f"haystack-ai {importlib.metadata.version('haystack-ai')} has no {module} {name}".rstrip()
            known = _haystack_hint(f"{name} {statement} {text}") or _close_hint(module, name)
            return known or f"{missing}: see {_MIGRATION}"
        case "haystack_integrations":
            words = re.findall(r"\w+", f"{statement} {text}")
            known = next((INTEGRATIONS[word] for word in words if word in INTEGRATIONS), "")
            return f"pip install {known or f'the integration (see {_INTEGRATIONS})'}"
        case "fastapi":
            words = re.findall(r"\w+", f"{name} {statement.partition('import')[2]}")
            ours = [f"from {STARLETTE[word]} import {word}" for word in dict.fromkeys(words) if word in STARLETTE]
            return f"FastAPI is not needed: `{'; '.join(ours)}`" if ours else "pip install fastapi"
        case "hayhooks":
            return _hayhooks_hint(module, name, statement)
    # A namespace package may lack a distribution; else the message says all.
    if module.startswith(PREFIX) or top in STANDARD_LIBRARY or (name and f"{module}.{name}" not in DISTRIBUTIONS):
        return _close_hint(module, name)
    return _distribution_hint(f"{module}.{name}" if name else module, statement, revision)


def _haystack_hint(text: str) -> str:
    """Say what replaces the part of Haystack 2 that *text* names; "" if it names none."""
    for word in re.findall(r"\w+", text):
        if word in REPLACED:
            return f"Haystack 3 has no {word}: use {REPLACED[word]}"
        if word in MOVED:
            distribution, module, new_name = MOVED[word]
            return f"Haystack 3 has no {word}: pip install {distribution}, and from {module} import {new_name}"
    return ""


def _close_hint(module: str, name: str) -> str:
    """Say which name of *module*, or which module, has nearly the name that is missing; "" if none has."""
    package, _, last = (f"{module}.{name}" if name else module).rpartition(".")
    found = sys.modules.get(package)
    names = {*dir(found), *(each.name for each in pkgutil.iter_modules(getattr(found, "__path__", [])))}
    if package:
        close = closest(last, names)
    elif last in STANDARD_LIBRARY:  # of an earlier Python
        close = ""
    else:
        top_level = {*sys.stdlib_module_names, *_distributions(_search_path())}
        close = next(iter(get_close_matches(last, top_level, 1, 0.85)), "")
    return f"did you mean `{close}`?" if close else ""


def _hayhooks_hint(module: str, name: str, statement: str) -> str:
    """Say where a name is here that the original has, or that was looked for in the wrong module."""
    homes = _compat.homes()
    for word in [name] if name else re.findall(r"\w+", statement.partition("import")[2]):
        if word in homes:
            return f"here it is `from {homes[word]} import {word}`"
    if close := closest(name, homes):
        return f"did you mean `from {homes[close]} import {close}`?"
    what = f"{module} has no {name}" if name else f"this hayhooks has no {module}"
    return f"{what}: docs/migration.md lists what there is"


def _distribution_hint(module: str, statement: str, revision: Revision) -> str:
    """Name the distribution that has *module*, or the directory near the wrapper."""
    top = module.partition(".")[0]
    known = next((DISTRIBUTIONS[name] for name in _imported(statement, module) if name in DISTRIBUTIONS), "")
    if not known and "." in module and (installed := _installed(top)):
        return f"{installed} is installed, without {module}"
    requirements = revision.path / "requirements.txt" if "requirements.txt" in revision.files else None
    if not known:
        if (near := _near_with(top, revision)) is not None:
            return f"add {near} to {_PATH_SETTING}: `{top}` is there"
        siblings = {path.partition("/")[0].removesuffix(".py") for path in revision.files if path.endswith(".py")}
        if close := closest(top, siblings):
            return f"did you mean `{close}`, which is beside the wrapper?"
        if not requirements and (close_hint := _close_hint(top, "")):
            return close_hint
        install = f"pip install -r {requirements}" if requirements else f"install the package that provides `{top}`"
        return f"{install}; if `{top}` is your own, put it beside the wrapper, or add its directory to {_PATH_SETTING}"
    return f"pip install -r {requirements}" if requirements else f"pip install {known}"


def _beyond_hint(statement: str, revision: Revision) -> str:
    """Say how to import what *statement* imports from outside the wrapper's folder."""
    found = re.search(r"from\s+\.+\s*([\w.]*)\s+import\W+(\w+)", statement)
    if found is None:
        return ""
    module, name = found.groups()
    top = module.partition(".")[0] or name
    near = _near_with(top, revision) or "its directory"
    again = f"from {module} import {name}" if module else f"import {name}"
    return f"a wrapper's package ends at its folder: add {near} to {_PATH_SETTING}, and `{again}`"


def _near_with(top: str, revision: Revision) -> Path | None:
    """Return the directory near *revision* that has the module *top*."""
    for directory in _near(revision.path):
        package = directory / top
        if (directory / f"{top}.py").is_file():
            return directory
        if package.is_dir() and any(any(folder.glob("*.py")) for folder in (package, *_children(package))):
            return directory
    return None


def _statement(error: BaseException, top: str) -> str:
    """Return the source of the import of *top*: the message of *error* names only the first module that is missing."""
    for frame in reversed(tracebacks.extract_tb(error.__traceback__)):
        linecache.checkcache(frame.filename)
        numbers = range(frame.lineno or 0, (frame.end_lineno or frame.lineno or 0) + 1)
        source = "".join(linecache.getline(frame.filename, number) for number in numbers)
        if re.search(rf"\b{re.escape(top)}\b", source):
            return source
    return ""


def _imported(statement: str, module: str) -> Iterator[str]:
    """Yield what *statement* imports of *module*, and the packages around it down to *module*."""
    found = re.search(rf"(?<![\w.])({re.escape(module)}(?:\.\w+)*)(?:\s+import\W+(\w+))?", statement)
    name = ".".join(filter(None, found.groups())) if found else module
    while name.startswith(module):
        yield name
        name = name.rpartition(".")[0]


def _installed(top: str) -> str:
    """Return the name and version of what provides *top*; "" if nothing does."""
    try:
        if top not in sys.modules and importlib.util.find_spec(top) is None:
            return ""
    except (ImportError, ValueError):
        return ""
    distributions = _distributions(_search_path()).get(top, ())
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in distributions) or f"`{top}`"


def _search_path() -> tuple[tuple[str, int], ...]:
    """Return where on ``sys.path`` something is installed, and when that last changed.

    Directories of shared modules change with each save, but have no distributions.
    """
    found = []
    for place in sys.path:
        with suppress(OSError):
            if not os.path.isdir(place) or any(name.endswith(_METADATA) for name in os.listdir(place)):
                found.append((place, os.stat(place).st_mtime_ns))
    return tuple(found)


@functools.lru_cache(maxsize=1)
def _distributions(_search_path: tuple[tuple[str, int], ...]) -> Mapping[str, list[str]]:
    """Return which distributions provide each top-level module.

    To read all of them takes 0.1 s, in which requests wait for the interpreter.
    """
    return importlib.metadata.packages_distributions()


def _near(folder: Path) -> Iterator[Path]:
    """Yield *folder*, the directories above it in its project, and the working directory, each with its children."""
    above = [folder]
    for directory in folder.parents[: _LEVELS_UP + 1]:
        if str(directory) in (os.path.expanduser("~"), directory.anchor):
            break
        above.append(directory)
        if any((directory / name).exists() for name in _PROJECT_FILES):
            break
    with suppress(OSError):  # it may have been removed
        above.append(Path.cwd())
    for directory in dict.fromkeys(above):
        yield directory
        yield from _children(directory)


def _children(directory: Path) -> list[Path]:
    try:
        with os.scandir(directory) as entries:
            found = [Path(entry.path) for entry in islice(entries, _ENTRIES) if entry.is_dir()]
    except OSError:
        return []
    return sorted(path for path in found if not is_ignored(path.name) and not (path / "pyvenv.cfg").exists())
