"""What Haystack keeps for the whole process, and how a revision's part gets in and out of it.

Nothing here imports Haystack: where no wrapper uses it, it is not loaded.
"""

import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from hayhooks.kernel.isolation import PREFIX, private_name


def patch_from_dict() -> None:
    """Let ``Pipeline.loads`` build the components of wrapper folders; does nothing until Haystack is imported.

    In YAML a component beside the wrapper is written as it is imported there, ``type: helper.Doubler``. Haystack
    imports by full name and checks the class against the text, so the text has to name the private module. There is
    no hook for that: ``Pipeline.from_dict``, which ``load`` and ``loads`` call too, is wrapped, once.
    """
    pipeline = getattr(sys.modules.get("haystack.core.pipeline.base"), "PipelineBase", None)
    if pipeline is None or hasattr(pipeline.from_dict, "__hayhooks__"):
        return
    sys.modules["haystack.core.serialization_security"].allow_deserialization_module(f"{PREFIX}*")
    original = pipeline.from_dict.__func__

    def from_dict(cls: type, data: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        return original(cls, _with_private_names(data), *args, **kwargs)

    from_dict.__doc__ = original.__doc__
    from_dict.__hayhooks__ = True  # type: ignore[attr-defined]
    pipeline.from_dict = classmethod(from_dict)


def forget_components(package: str) -> None:
    """Drop the components of *package* from Haystack's registry, which would keep all its modules alive."""
    component = getattr(sys.modules.get("haystack.core.component.component"), "component", None)
    if component is not None:
        for path in [path for path in list(component.registry) if path.startswith(package + ".")]:
            component.registry.pop(path, None)


def register_components(module: ModuleType) -> None:
    """Let Haystack know the components of *module*, a shared one, in this version and no other."""
    component = getattr(sys.modules.get("haystack.core.component.component"), "component", None)
    prefix = f"{module.__name__}."
    registry: dict[str, Any] = getattr(component, "registry", {})
    for path in [path for path in list(registry) if path.startswith(prefix)]:
        if (cls := getattr(module, path.removeprefix(prefix), None)) is not None:
            registry[path] = cls


def pipelines(wrapper: Any) -> Iterator[Any]:
    """The Haystack pipelines and agents among the attributes of *wrapper*, each once."""
    seen: set[int] = set()
    for value in vars(wrapper).values():
        if id(value) not in seen and _is_haystack(type(value)) and callable(getattr(value, "warm_up", None)):
            seen.add(id(value))
            yield value


def lifecycle_methods(wrapper: Any, method: str) -> Iterator[Callable[[], Any]]:
    """The bound *method* of every pipeline and agent of *wrapper* that has it."""
    for pipeline in pipelines(wrapper):
        if callable(bound := getattr(pipeline, method, None)):
            yield bound


def _is_haystack(cls: type) -> bool:
    return any(base.__module__.startswith("haystack.") for base in cls.__mro__)


def _with_private_names(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_private_names(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_private_names(item) for item in value]
    if isinstance(value, str) and "." in value and all(part.isidentifier() for part in value.split(".")):
        return private_name(value)
    return value
