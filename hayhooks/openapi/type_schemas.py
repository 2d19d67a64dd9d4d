"""JSON schemas of Python types, by pydantic."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema, to_json

from hayhooks.observability.log import log
from hayhooks.openapi.describe import COMPONENTS, Schema, slug


class _Lenient(GenerateJsonSchema):
    """Types without a JSON schema accept anything, so that the others keep their schemas."""

    def handle_invalid_for_json_schema(self, schema: core_schema.CoreSchema, error_info: str) -> JsonSchemaValue:
        return {}

    def emit_warning(self, kind: Any, detail: str) -> None:
        """Drop warnings: the user cannot act on them."""


def schemas_of(
    deployment: str, types: Mapping[str, tuple[TypeAdapter[Any], Literal["validation", "serialization"]]]
) -> tuple[dict[str, Schema], dict[str, Schema]]:
    """Return the schemas of *types* by the same keys, and the components that they refer to.

    The names of components begin with the *deployment*'s, because two deployments may have models of one name. A type
    whose schema fails is ``{}``: anything.
    """
    prefix = f"{slug(deployment)}."
    try:
        inputs = [(key, mode, adapter) for key, (adapter, mode) in types.items()]
        by_key, common = TypeAdapter.json_schemas(
            inputs, ref_template=f"{COMPONENTS}{prefix}{{model}}", schema_generator=_Lenient
        )
        components = {f"{prefix}{name}": schema for name, schema in common.get("$defs", {}).items()}
        to_json([components, *by_key.values()])  # raises if a model put in a value that JSON cannot hold
        return {key: schema for (key, _), schema in by_key.items()}, components
    # The user's models may have code of their own for this.
    except Exception as error:
        if len(types) <= 1:
            log.warning("{}: a type has no JSON schema: {}", deployment, error)
            return {key: {} for key in types}, {}
    schemas: dict[str, Schema] = {}
    components = {}
    for key, given in types.items():
        schema, its_components = schemas_of(deployment, {key: given})
        schemas |= schema
        components |= its_components
    return schemas, components


def resolved(schema: Schema, components: Mapping[str, Schema]) -> Schema:
    """Return the component that *schema* refers to, or *schema* itself."""
    while schema.keys() == {"$ref"}:
        schema = components[schema["$ref"].removeprefix(COMPONENTS)]
    return schema


def inline_refs(schema: Schema, components: Mapping[str, Schema]) -> Schema:
    """Return *schema* as a self-contained JSON schema: the *components* that it refers to are in ``$defs``."""
    schema = resolved(schema, components)
    needed: dict[str, Schema] = {}
    pending = list(_references(schema))
    while pending:
        name = pending.pop()
        if name not in needed and name in components:
            needed[name] = components[name]
            pending += _references(components[name])
    rewritten: Schema = _rewrite_refs(schema)
    return (
        {**rewritten, "$defs": {name: _rewrite_refs(needed[name]) for name in sorted(needed)}} if needed else rewritten
    )


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, str) and value.startswith(COMPONENTS):
        yield value.removeprefix(COMPONENTS)
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _references(item)


def _rewrite_refs(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rewrite_refs(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rewrite_refs(item) for item in value]
    if isinstance(value, str) and value.startswith(COMPONENTS):
        return "#/$defs/" + value.removeprefix(COMPONENTS)
    return value
