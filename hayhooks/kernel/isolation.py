"""Isolation: each revision has modules of its own, compiled from scanned bytes.

A revision gets a private package, ``_hayhooks_{name}_{id}_{n}``, with ``pipeline_wrapper`` and every other Python file
of the folder. Its code runs with an ``__import__`` of its own, so ``import helper`` there imports the file beside it.
Code outside cannot see it: two wrappers may both have a ``utils.py``.
"""

import builtins
import importlib
import importlib.abc
import importlib.machinery
import itertools
import logging
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.resources.readers import FileReader
from pathlib import Path
from types import ModuleType
from typing import Any

from hayhooks.kernel.shared_modules import SharedModules, packages_around
from hayhooks.kernel.state import Revision, RevisionKind
from hayhooks.kernel.threads import DaemonThreadPool, Outcome

PREFIX = "_hayhooks_"
_PRIVATE = re.compile(rf"{PREFIX}\w+?_[0-9a-f]{{12}}_\d+\.")

shared_modules = SharedModules()

_counter = itertools.count(1)

# The package whose code runs in this context: set around a load and every call of a wrapper's method.
_current: ContextVar[str | None] = ContextVar("hayhooks_package", default=None)

# The import thread: public modules are imported there for the first time, one after the other. Haystack imports its
# parts lazily, and two threads that do so together break each other (half-initialised modules). When an optional
# dependency is missing Haystack keeps the exception, with all frames of the thread: in a loader's is the wrapper.
_imports = DaemonThreadPool("import", limit=1, stuck_after_s=20.0)
_import_thread = threading.local()

# The helpers of all revisions that have been retired: code that they left behind may go on.
_helpers_of_retired = DaemonThreadPool("retired helper", limit=40)


@dataclass(frozen=True, slots=True)
class _Package:
    """One revision, as the finder sees it."""

    name: str
    deployment: str
    folder: Path
    sources: Mapping[str, bytes]  # by path relative to the folder
    siblings: frozenset[str]  # top-level module names in the folder
    builtins: dict[str, Any]  # of its modules, __import__ included
    helpers: DaemonThreadPool  # run what its code hands to asyncio.to_thread and the like
    shared: dict[str, ModuleType]  # that it was loaded with, by name


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self) -> None:
        self.packages: dict[str, _Package] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        top, _, rest = fullname.partition(".")
        package = self.packages.get(top)
        if package is None:
            if top.startswith(PREFIX):
                raise ModuleNotFoundError(f"{fullname} belongs to a revision that has been retired", name=fullname)
            return None
        relative = rest.replace(".", "/")
        spec = _spec_of(package, fullname, relative)
        if spec is None:  # not None: the next finder would read the folder, .pyc files included
            raise ModuleNotFoundError(f"No module named {rest!r} in {package.folder}", name=fullname)
        return spec


_finder = _Finder()


def _spec_of(package: _Package, fullname: str, relative: str) -> importlib.machinery.ModuleSpec | None:
    prefix = relative + "/" if relative else ""
    init, module = f"{prefix}__init__.py", f"{relative}.py"
    is_package = init in package.sources or not relative  # the revision's folder is one, with or without the file
    if not is_package and any(path.startswith(prefix) for path in package.sources):
        spec = importlib.machinery.ModuleSpec(fullname, None, is_package=True)  # a namespace package
    elif is_package or module in package.sources:
        loader = _Loader(package, init if is_package else module)
        spec = importlib.machinery.ModuleSpec(fullname, loader, origin=loader.path, is_package=is_package)
        spec.has_location = True
    else:
        for suffix in importlib.machinery.EXTENSION_SUFFIXES:  # compiled ones have no source to keep
            if (file := package.folder / f"{relative}{suffix}").is_file():
                extension = importlib.machinery.ExtensionFileLoader(fullname, str(file))
                return importlib.machinery.ModuleSpec(fullname, extension, origin=str(file))
        return None
    if spec.submodule_search_locations is not None:
        spec.submodule_search_locations = [str(package.folder / relative)]
    return spec


class _Loader(importlib.abc.SourceLoader):
    """Compiles one file of a revision from the bytes that were scanned."""

    # Without .pyc files: Python trusts one if the size and the whole-second mtime of its source are unchanged. After
    # two saves within one second that replace "a" by "b" it would serve "a" for ever.

    def __init__(self, package: _Package, relative: str) -> None:
        self._package = package
        self._relative = relative
        self.path = str(package.folder / relative)

    def get_filename(self, fullname: str) -> str:
        return self.path

    def get_data(self, path: str | bytes) -> bytes:
        """Return the scanned source, or the present content of any other file."""
        return self._package.sources.get(self._relative, b"") if path == self.path else Path(str(path)).read_bytes()

    def get_resource_reader(self, fullname: str) -> FileReader:
        """Let ``importlib.resources`` read the module's folder."""
        return FileReader(self)  # type: ignore[arg-type]  # it wants the path alone

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__builtins__"] = self._package.builtins
        super().exec_module(module)


def open_package(revision: Revision, after_import: Callable[[], None] = lambda: None, *, helpers: int = 1) -> str:
    """Make a private package with up to *helpers* threads for *revision*, and return its name."""
    # after_import is called when code of the package has imported a public module for the first time.
    slug = re.sub(r"\W", "_", revision.name, flags=re.ASCII)
    name = f"{PREFIX}{slug}_{revision.id}_{next(_counter)}"
    code = revision.files.items() if revision.kind is RevisionKind.FOLDER else ()
    sources = {path: file.source for path, file in code if file.source is not None}
    siblings = frozenset(path.partition("/")[0].removesuffix(".py") for path in sources) - {"__init__"}
    threads = DaemonThreadPool(f"{revision.name} helper", helpers)
    package = _Package(name, revision.name, revision.path, sources, siblings, {}, threads, {})
    package.builtins.update(vars(builtins), __import__=_import_function(package, after_import))
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    _finder.packages[name] = package
    return name


def keep_shared(name: str, shared: Iterable[str]) -> None:
    """Let later imports in the package *name* return the present versions of *shared*."""
    kept = {module for dotted in shared for module in (dotted, *packages_around(dotted))}
    _finder.packages[name].shared.update({module: sys.modules[module] for module in kept if module in sys.modules})


def close_package(name: str) -> None:
    """Forget the package *name*, its modules and loggers; its code can still run."""
    package = _finder.packages.pop(name, None)
    if package is not None:
        package.helpers.close()
    registers: tuple[dict[str, Any], ...] = (sys.modules, getattr(logging.Logger.manager, "loggerDict", {}))
    for register in registers:
        for key in [key for key in list(register) if key == name or key.startswith(name + ".")]:
            register.pop(key, None)


def with_public_names(text: str) -> str:
    """Remove the private package names from *text*."""
    return _PRIVATE.sub("", text)


def replace_stuck_import() -> None:
    """Start another import thread when one is stuck; call it about once a second."""
    _imports.tick()


def current_folder() -> Path | None:
    """Return the folder of the wrapper whose code runs in this context."""
    package = _finder.packages.get(_current.get() or "")
    return package.folder if package else None


def running_source(file: str) -> str | None:
    """Return *file* as the code in this context runs it, for it may have changed; None if it is not of its folder."""
    package = _finder.packages.get(_current.get() or "")
    if package is None or not file.startswith(f"{package.folder}/"):
        return None
    source = package.sources.get(file.removeprefix(f"{package.folder}/"))
    return source.decode(errors="replace") if source is not None else None


def current_deployment() -> str:
    """Return the name of the deployment whose code runs in this context; "" for none."""
    package = _finder.packages.get(_current.get() or "")
    return package.deployment if package else ""


def deployment_at(file: str) -> str:
    """Return the name of the deployment that has *file*; "" if none has."""
    packages = list(_finder.packages.values())
    return next((package.deployment for package in packages if Path(file).is_relative_to(package.folder)), "")


def helper_threads() -> DaemonThreadPool | None:
    """Return the threads for what the code in this context hands to others; None: it is the application's."""
    name = _current.get()
    if name is None:
        return None
    package = _finder.packages.get(name)
    return package.helpers if package is not None else _helpers_of_retired


@contextmanager
def running_package(package: str) -> Iterator[None]:
    """Mark the code that runs in this context as the *package*'s."""
    token = _current.set(package)
    try:
        yield
    finally:
        _current.reset(token)


def enter_package(package: str) -> None:
    """Mark the code that runs in the rest of this context as the *package*'s."""
    _current.set(package)


def private_name(dotted: str) -> str:
    """Return the full name of *dotted* if it is beside the running wrapper."""
    package = _finder.packages.get(_current.get() or "")
    module, _, attribute = dotted.rpartition(".")
    if package is None or module.partition(".")[0] not in package.siblings:
        return dotted
    try:
        found = hasattr(importlib.import_module(f"{package.name}.{module}"), attribute)
    except ModuleNotFoundError:
        return dotted
    return f"{package.name}.{dotted}" if found else dotted


def _import_function(package: _Package | None, after_import: Callable[[], None]) -> Any:
    """Make the ``__import__`` of the code of *package*; None: of the shared modules."""
    # Rewriting the imports in the source would do for siblings, but not for public modules: they must be imported in
    # the import thread, wherever and whenever they are first needed. Without that, test_reconcile.py::
    # test_twenty_cold_starts_serve_all_eight_wrappers_each_time fails 20 times of 20.

    def import_(
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        if level > 0:
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        top = name.partition(".")[0]  # siblings come first, as for a script in its folder
        if package is not None and top in package.siblings:
            private = builtins.__import__(f"{package.name}.{name}", globals, locals, fromlist or (), 0)
            return private if fromlist else sys.modules[f"{package.name}.{top}"]
        if package is not None and name in package.shared:  # this revision's version, whatever was imported since
            module = package.shared[name]
            for item in fromlist or ():
                if item != "*" and not hasattr(module, item):
                    with suppress(ModuleNotFoundError):  # as Python's own: only a missing sub-module is imported late
                        _import_public(f"{name}.{item}", None, None, (), after_import)
            return module if fromlist else package.shared[top]
        return _import_public(name, globals, locals, fromlist or (), after_import)

    return import_


def _import_public(
    name: str,
    globals: Mapping[str, Any] | None,
    locals: Mapping[str, Any] | None,
    fromlist: Sequence[str],
    after_import: Callable[[], None],
) -> ModuleType:
    """Import a module in the import thread, unless it is imported already or shared."""
    module = sys.modules.get(name)
    # Private in CPython; without it the import below waits for the one that is going on.
    is_initializing = getattr(getattr(module, "__spec__", None), "_initializing", False)
    if module is not None and not is_initializing and all(item in vars(module) for item in fromlist):
        # A request must not wait for the import of something else.
        return builtins.__import__(name, globals, locals, fromlist, 0)
    if shared_modules.holds(name.partition(".")[0]):  # nor must it for the import of a shared module
        module = builtins.__import__(name, globals, locals, fromlist, 0)
        # A thread that waited for the import of another one gets the module even if that import failed.
        return module if name in sys.modules else builtins.__import__(name, globals, locals, fromlist, 0)
    if getattr(_import_thread, "is_this", False):
        return builtins.__import__(name, None, None, fromlist, 0)
    done = threading.Event()
    outcomes: list[Outcome] = []

    def import_and_prepare() -> ModuleType:
        public = builtins.__import__(name, None, None, fromlist, 0)
        after_import()
        return public

    def job() -> None:
        _import_thread.is_this = True
        outcomes.append(Outcome.of(import_and_prepare))
        done.set()

    _imports.submit(job)
    done.wait()
    imported: ModuleType = outcomes.pop().unwrap()
    return imported


def import_public(name: str, after_import: Callable[[], None], fromlist: Sequence[str] = ("__name__",)) -> ModuleType:
    """Import a public module as a wrapper's code does."""
    return _import_public(name, None, None, fromlist, after_import)


def add_python_path(roots: Sequence[str], after_import: Callable[[], None]) -> None:
    """Let everybody import shared modules from the directories *roots*."""
    shared_modules.add(roots, {**vars(builtins), "__import__": _import_function(None, after_import)})


def remove_python_path(roots: Sequence[str]) -> None:
    """Undo ``add_python_path``."""
    shared_modules.remove(roots)


def remove_finder() -> None:
    """Import no private packages any more, until one is opened."""
    if _finder in sys.meta_path:
        sys.meta_path.remove(_finder)


def keep_import_thread() -> None:
    """Start the import thread: later there may be none."""
    _imports.keep_thread()


def stop_import_thread() -> None:
    """End the idle import thread; later imports start threads of their own."""
    _imports.close()
