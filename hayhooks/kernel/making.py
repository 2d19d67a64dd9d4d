"""Making a wrapper of a revision: of a folder's class, of a pipeline in YAML, or of what was given in code."""

import importlib
import inspect
from contextlib import suppress

from hayhooks.errors import LoadError
from hayhooks.kernel import haystack_hooks
from hayhooks.kernel.discovery import WRAPPER_FILE
from hayhooks.kernel.isolation import import_public, keep_shared, shared_modules
from hayhooks.kernel.shared_modules import named_modules
from hayhooks.kernel.state import Revision, RevisionKind
from hayhooks.toolkit.yaml_wrapper import YAMLPipelineWrapper
from hayhooks.wrapper import BasePipelineWrapper

CLASS = "PipelineWrapper"

_HAYSTACKS = ("haystack", "haystack_integrations", "haystack_experimental")


def make_wrapper(revision: Revision, package: str) -> BasePipelineWrapper:
    """Make the wrapper of *revision*, whose modules are those of *package*, and run its ``setup``.

    Raises:
        LoadError: there is none, or it cannot be one.
        BaseException: whatever the user's code raises.
    """
    match revision.kind:
        case RevisionKind.FOLDER:
            with shared_modules.renewed(revision.shared):
                wrapper_class = _wrapper_class(package)
            keep_shared(package, revision.shared)
            wrapper = wrapper_class()
            _run_setup(wrapper)
        case RevisionKind.YAML:
            with shared_modules.renewed(revision.shared):
                wrapper = _of_yaml(revision)
            wrapper.setup()
        case RevisionKind.CODE:
            wrapper = _given(revision)
            _run_setup(wrapper)
    return wrapper


def _run_setup(wrapper: BasePipelineWrapper) -> None:
    if inspect.iscoroutinefunction(wrapper.setup):
        name = type(wrapper).__name__
        raise LoadError(f"setup() of {name} is async: make it a plain method (it runs in a thread of its own)")
    if isinstance(wrapper, YAMLPipelineWrapper):
        import_public("haystack", haystack_hooks.install_hooks)
    wrapper.setup()


def _wrapper_class(package: str) -> type[BasePipelineWrapper]:
    module = importlib.import_module(f"{package}.{WRAPPER_FILE.removesuffix('.py')}")
    found = getattr(module, CLASS, None)
    if isinstance(found, type) and issubclass(found, BasePipelineWrapper) and found is not BasePipelineWrapper:
        return found
    base = f"class {CLASS}(BasePipelineWrapper)"
    if found is not None:
        raise LoadError(f"{CLASS} in {module.__file__} does not derive from BasePipelineWrapper: write {base}")
    others = [
        name
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, BasePipelineWrapper) and value is not BasePipelineWrapper
    ]
    hint = f"rename {others[0]} to {CLASS}" if others else f"define {base}"
    raise LoadError(f"{module.__file__} has no class {CLASS}: {hint}")


def _of_yaml(revision: Revision) -> YAMLPipelineWrapper:
    """The wrapper of a file: it may have Haystack's components, and those of the shared modules that it names."""
    content = revision.files[revision.path.name].source or b""
    for module in ("haystack", *_haystack_modules(content)):  # one after the other, see modules.py
        with suppress(Exception):  # it is raised again where it can be told with its place
            import_public(module, haystack_hooks.install_hooks)
    for module in revision.shared:
        haystack_hooks.register(importlib.import_module(module))
    return YAMLPipelineWrapper(content, file=str(revision.path), allowed_modules=tuple(revision.shared))


def _haystack_modules(content: bytes) -> list[str]:
    dotted = sorted(name for name in named_modules(content) if name.partition(".")[0] in _HAYSTACKS)
    return [name.rpartition(".")[0] for name in dotted]


def _given(revision: Revision) -> BasePipelineWrapper:
    assert revision.make is not None
    wrapper = revision.make()
    if not isinstance(wrapper, BasePipelineWrapper):
        raise LoadError(
            f"what was given in code made an object of {type(wrapper).__name__}, which is no BasePipelineWrapper"
        )
    return wrapper
