"""Haystack hooks: a revision's components in Haystack's process-wide state.

Nothing here imports Haystack: it is not loaded until a wrapper uses it.
"""

import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from hayhooks.kernel.isolation import PREFIX, private_name

_ORIGINAL = "__hayhooks_original__"  # marks our from_dict, and holds Haystack's
_PATTERN = f"{PREFIX}*"

on_import: list[Callable[[], None]] = []  # called with each import of a wrapper's code, in its thread


def patch_haystack() -> None:
    """Patch what has been imported of Haystack; a wrapper's code has imported something."""
    patch_from_dict()
    for patch in on_import:
        patch()


def patch_from_dict() -> None:
    """Let ``Pipeline.loads`` build the components of wrapper folders.

    YAML names a component beside the wrapper as the wrapper imports it, ``type: helper.Doubler``. Haystack has no hook
    to put the private module there, so we wrap ``Pipeline.from_dict``, which ``load`` and ``loads`` call too.
    """
    pipeline = getattr(sys.modules.get("haystack.core.pipeline.base"), "PipelineBase", None)  # None: not imported
    if pipeline is None or hasattr(pipeline.from_dict, _ORIGINAL):
        return
    security = sys.modules.get("haystack.core.serialization_security")
    if allow := getattr(security, "allow_deserialization_module", None):  # older Haystacks have no allowlist
        allow(_PATTERN)
    original = vars(pipeline)["from_dict"]

    def from_dict(cls: type, data: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        return original.__func__(cls, _with_private_names(data), *args, **kwargs)

    from_dict.__doc__ = original.__doc__
    setattr(from_dict, _ORIGINAL, original)
    pipeline.from_dict = classmethod(from_dict)


def restore_from_dict() -> None:
    """Undo ``patch_from_dict``."""
    pipeline = getattr(sys.modules.get("haystack.core.pipeline.base"), "PipelineBase", None)
    original = getattr(getattr(pipeline, "from_dict", None), _ORIGINAL, None)
    if pipeline is not None and original is not None:
        pipeline.from_dict = original
    # Haystack cannot take back an allowed pattern; without its private list the pattern stays, and matches no module.
    allowed = getattr(sys.modules.get("haystack.core.serialization_security"), "_extra_allowed_modules", [])
    if _PATTERN in allowed:
        allowed.remove(_PATTERN)


def forget_components(package: str) -> None:
    """Drop the components of *package*: Haystack's registry would keep modules alive."""
    component = getattr(sys.modules.get("haystack.core.component.component"), "component", None)
    if component is not None:
        for path in [path for path in list(component.registry) if path.startswith(package + ".")]:
            component.registry.pop(path, None)


def register_components(module: ModuleType) -> None:
    """Register the components of the shared module *module* in its present version."""
    component = getattr(sys.modules.get("haystack.core.component.component"), "component", None)
    prefix = f"{module.__name__}."
    registry: dict[str, Any] = getattr(component, "registry", {})
    for path in [path for path in list(registry) if path.startswith(prefix)]:
        if (cls := getattr(module, path.removeprefix(prefix), None)) is not None:
            registry[path] = cls


def pipelines(wrapper: Any) -> Iterator[Any]:
    """Yield the Haystack pipelines and agents that *wrapper* has as attributes."""
    seen: set[int] = set()
    for value in vars(wrapper).values():
        is_haystacks = any(base.__module__.startswith("haystack.") for base in type(value).__mro__)
        if is_haystacks and id(value) not in seen and callable(getattr(value, "warm_up", None)):
            seen.add(id(value))
            yield value


def lifecycle_methods(wrapper: Any, method: str) -> Iterator[Callable[[], Any]]:
    """Yield the bound *method* of every pipeline and agent of *wrapper* that has it."""
    for pipeline in pipelines(wrapper):
        if callable(bound := getattr(pipeline, method, None)):
            yield bound


def _with_private_names(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_private_names(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_private_names(item) for item in value]
    if isinstance(value, str) and "." in value and all(part.isidentifier() for part in value.split(".")):
        return private_name(value)
    return value
