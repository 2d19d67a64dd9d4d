"""Shared modules: those on the additional Python path, for several wrappers.

They are plain modules, one of each for the whole process. The fingerprint of a revision covers the shared modules that
it imports. A load with a new version drops the old module first; an old revision that still serves keeps using it.
"""

import ast
import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, TypeVar

from hayhooks.kernel.state import SharedModule, Stamp, digest_of

T = TypeVar("T")

_IMPORT_TIMEOUT_S = 5.0  # for the shared imports of another load
_DOTTED = re.compile(rb"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")
_CACHE_SIZE = 4_000  # sources whose imports are remembered


_imports: dict[tuple[bytes, str], frozenset[str]] = {}  # by the source's digest, which is smaller, and its package


def imported_names(source: bytes, package: str = "") -> frozenset[str]:
    """Return the dotted names that *source* in *package* imports, at any level."""
    key = (digest_of(source), package)
    if key not in _imports:
        if len(_imports) >= _CACHE_SIZE:
            _imports.clear()
        tree = parsed(source)
        names: set[str] = set()
        for node in ast.walk(tree) if tree is not None else ():
            module, imported = imports_of(node, package)
            names.update(imported, [module] if module else [])
        _imports[key] = frozenset(names)
    return _imports[key]


def named_modules(source: bytes) -> frozenset[str]:
    """Return every dotted name in the YAML *source*, text of the same form included."""
    return frozenset(name.decode() for name in _DOTTED.findall(source))


def parsed(source: bytes, path: str = "<unknown>") -> ast.Module | None:
    """Parse *source*, whose warnings name *path*; None if it is not valid Python."""
    try:
        return ast.parse(source, path)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def imports_of(node: ast.AST, package: str = "") -> tuple[str, list[str]]:
    """Return the module after ``from``, and the dotted names that *node* imports."""
    if isinstance(node, ast.Import):
        return "", [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return "", []
    module = node.module or ""
    if node.level:
        parts = package.split(".") if package else []
        if node.level > len(parts):  # it leads out of the package
            return "", []
        module = ".".join([*parts[: len(parts) - node.level + 1], *([module] if module else [])])
    return module, [f"{module}.{alias.name}" for alias in node.names]


def packages_around(name: str) -> set[str]:
    """Return the names of the packages that the module *name* is in."""
    parts = name.split(".")
    return {".".join(parts[:length]) for length in range(1, len(parts))}


class PythonPath:
    """The modules in *roots* that sources import, and their versions. For one thread."""

    def __init__(self, roots: Sequence[str]) -> None:
        self.roots = tuple(roots)
        self._listings: dict[str, frozenset[str]] = {}
        self._files: dict[str, tuple[Stamp, bytes] | None] = {}  # all that were looked for; None: there is none
        self._found: dict[frozenset[str], Mapping[str, SharedModule]] = {}

    def look(self) -> None:
        """Scan the directories; ``modules`` reports this state until the next call."""
        listings: dict[str, frozenset[str]] = dict.fromkeys(self.roots, frozenset())
        for root in self.roots:
            with suppress(OSError):  # it may come
                listings[root] = frozenset(os.listdir(root))
        stale = [path for path, file in self._files.items() if Stamp.at(path, only_regular=True) != (file and file[0])]
        if stale or listings != self._listings:
            self._listings = listings
            self._found.clear()
            for path in stale:
                del self._files[path]

    def modules(self, names: frozenset[str]) -> Mapping[str, SharedModule]:
        """Return the modules that *names* import, directly or through others, by name."""
        if not self.roots:
            return {}
        found = self._found.get(names)
        if found is None:
            found = {}
            for module, module_path in sorted(self._reach(names).items()):
                total = hashlib.blake2b(digest_size=16)
                for name, path in sorted(self._reach(frozenset({module})).items()):
                    kind = "package" if path.endswith("/__init__.py") else "module"  # the path differs between machines
                    total.update(f"{name}\0{kind}\0".encode(errors="surrogateescape") + self._digest(path))
                found[module] = SharedModule(module_path, self._digest(module_path), total.hexdigest())
            self._found[names] = found
        return found

    def _reach(self, names: frozenset[str]) -> dict[str, str]:
        paths: dict[str, str] = {}
        to_follow = list(names)
        while to_follow:
            for module, path in self._paths(to_follow.pop()):
                if module not in paths:
                    paths[module] = path
                    package = module if path.endswith("__init__.py") else module.rpartition(".")[0]
                    to_follow += imported_names(self._source(path) or b"", package)
        return paths

    def _paths(self, name: str) -> Iterator[tuple[str, str]]:
        """Yield the module *name* and the packages around it, with their files."""
        parts = name.split(".")
        top = {parts[0], f"{parts[0]}.py"}
        root = next((root for root in self.roots if not top.isdisjoint(self._listings.get(root, ()))), None)
        if root is None:
            return
        for length in range(1, len(parts) + 1):
            base = "/".join((root, *parts[:length]))
            for path in (f"{base}/__init__.py", f"{base}.py"):
                if self._source(path) is not None:
                    yield ".".join(parts[:length]), path
                    break

    def _digest(self, path: str) -> bytes:
        return digest_of(self._source(path) or b"")

    def _source(self, path: str) -> bytes | None:
        if path not in self._files:
            stamp = Stamp.at(path, only_regular=True)
            try:
                self._files[path] = None if stamp is None else (stamp, Path(path).read_bytes())
            except OSError:
                self._files[path] = None
        file = self._files[path]
        return file and file[1]


class SharedModules(importlib.abc.MetaPathFinder):
    """Imports shared modules from source: a ``.pyc`` may be stale."""

    def __init__(self) -> None:
        self._builtins: dict[str, Any] = {}
        self._roots: list[str] = []
        self._added_to_path: set[str] = set()  # those of them that were not in sys.path before
        self._import_lock = threading.Lock()
        self._versions: dict[str, str] = {}  # of the modules that are imported

    def add(self, roots: Sequence[str], builtins: Mapping[str, Any]) -> None:
        """Import from *roots* before installed packages; the code there sees *builtins*."""
        self._builtins.update(builtins)
        self._roots[:0] = [root for root in roots if root not in self._roots]
        added = [root for root in roots if root not in sys.path]
        self._added_to_path.update(added)
        sys.path[:0] = added
        if self._roots and self not in sys.meta_path:
            sys.meta_path.insert(sys.meta_path.index(importlib.machinery.PathFinder), self)

    def remove(self, roots: Sequence[str]) -> None:
        """Undo ``add``; what was imported from *roots* is gone for the next load."""
        self._roots = [root for root in self._roots if root not in roots]
        for root in self._added_to_path.intersection(roots):
            self._added_to_path.discard(root)
            if root in sys.path:
                sys.path.remove(root)
        if not self._roots and self in sys.meta_path:
            sys.meta_path.remove(self)

    def holds(self, top: str) -> bool:
        """Whether the top-level module *top* is a shared one."""
        return any(os.path.exists(f"{root}/{top}.py") or os.path.isdir(f"{root}/{top}") for root in self._roots)

    @contextmanager
    def renewed(self, wanted: Mapping[str, SharedModule]) -> Iterator[frozenset[str]]:
        """Import shared modules as they are on disk, in the versions *wanted*; yield the names of those that are gone.

        Modules that are gone or of another version are dropped, and restored if the load fails.
        """
        if not wanted and not self._gone():
            yield frozenset()
            return
        # One load at a time: another must not see a module whose import fails half-way. An import may hang, though.
        acquired = self._import_lock.acquire(timeout=_IMPORT_TIMEOUT_S)
        before: dict[str, tuple[ModuleType | None, str | None]] = {}
        try:
            changed = {name for name, shared in wanted.items() if self._versions.get(name) != shared.version}
            for name in changed:  # a broken module is an error even if imported later
                path = wanted[name].path
                compile(Path(path).read_bytes(), path, "exec", dont_inherit=True)
            gone = self._gone()
            # A package refers to its sub-modules: an old revision keeps the old package with the old ones.
            dropped = gone.union(changed, *map(packages_around, gone | changed))
            before = {name: (sys.modules.get(name), self._versions.get(name)) for name in dropped.union(wanted)}
            for name in dropped:
                sys.modules.pop(name, None)
                self._versions.pop(name, None)
            self._versions.update({name: shared.version for name, shared in wanted.items()})
            for name in sorted(dropped - gone - changed):
                old = before[name][0]
                if old is not None and not _places(old)[0]:  # a package without code: no loader of ours imports it
                    with suppress(ImportError):
                        _set_submodules(importlib.import_module(name))
            yield frozenset(gone)
        except BaseException:
            for name, (module, version) in before.items():
                _restore(sys.modules, name, module)
                _restore(self._versions, name, version)
            raise
        finally:
            if acquired:
                self._import_lock.release()

    def _gone(self) -> set[str]:
        """Return the imported modules that an import would not find at their places."""
        shared: set[str] = set()
        gone: set[str] = set()
        if not self._roots and not self._versions:
            return gone
        modules = dict(sys.modules)
        for name, module in sorted(modules.items()):  # packages before their modules
            package = name.rpartition(".")[0]
            if package in gone:
                gone.add(name)
                continue
            is_ours = _is_ours(module)
            if package and package not in shared and not is_ours:  # nearly all: they cost no more than this
                continue
            origin, places = _places(module)
            if is_ours or any(self._is_below(p) if package else os.path.dirname(p) in self._roots for p in places):
                shared.add(name)
                found = self.find_spec(name, modules[package].__path__ if package else None)
                if found is not None:
                    is_there = found.origin == origin
                else:  # compiled, or a namespace package
                    is_there = any(map(os.path.exists, places)) and not origin.endswith(".py")
                if not is_there:
                    gone.add(name)
        return gone

    def _is_below(self, place: str) -> bool:
        return any(place.startswith(root + "/") for root in self._roots)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find a module in one of the directories or in a package there."""
        name = fullname.rpartition(".")[2]
        for directory in self._roots if path is None else path:
            if path is not None and not self._is_below(directory):
                continue
            for file, places in (
                (f"{directory}/{name}/__init__.py", [f"{directory}/{name}"]),
                (f"{directory}/{name}.py", None),
            ):
                if os.path.isfile(file):
                    loader = _Loader(fullname, file, self._builtins)
                    return importlib.util.spec_from_file_location(
                        fullname, file, loader=loader, submodule_search_locations=places
                    )
        return None  # Python finds namespace packages


class _Loader(importlib.machinery.SourceFileLoader):
    """Python's loader without ``.pyc`` files."""

    def __init__(self, fullname: str, path: str, builtins: dict[str, Any]) -> None:
        super().__init__(fullname, path)
        self._builtins = builtins

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = self.source_to_code(self.get_data(self.path), self.path)
        return code

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__builtins__"] = self._builtins
        _set_submodules(module)
        super().exec_module(module)


def _is_ours(module: object) -> bool:
    try:
        return isinstance(getattr(module, "__loader__", None), _Loader)
    except Exception:  # anything may stand in sys.modules
        return False


def _places(module: object) -> tuple[str, list[str]]:
    """Return the origin of *module*, and the directories of a package or else the origin again."""
    try:
        spec: Any = getattr(module, "__spec__", None)
        origin = str(spec.origin or "")
        return origin, list(spec.submodule_search_locations or [origin])
    except Exception:  # anything may stand in sys.modules
        return "", []


def _set_submodules(package: ModuleType) -> None:
    """Set the attributes of *package* that are sub-modules, imported before and not again."""
    for name in list(sys.modules):
        parent, _, submodule = name.rpartition(".")
        if parent == package.__name__:
            setattr(package, submodule, sys.modules[name])


def _restore(mapping: dict[str, T], name: str, value: T | None) -> None:
    if value is None:
        mapping.pop(name, None)
    else:
        mapping[name] = value
