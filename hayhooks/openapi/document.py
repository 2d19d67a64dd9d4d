"""The OpenAPI document of a generation: made of the parts that its deployments and the server add to it.

A part is encoded once and kept with its deployment: a new generation describes only what is new in it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import yaml
from pydantic_core import from_json

from hayhooks._version import __version__
from hayhooks.errors import sendable
from hayhooks.http.json import encode
from hayhooks.http.switch import Generation
from hayhooks.kernel.state import Deployment
from hayhooks.openapi.describe import OPENAI, RESPONSES, SERVER, SHARED, OpenApiFragment, fragment, inline_refs


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Writes what occurs twice twice: an alias would be lost in a document that is put together of parts."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_KEY = "openapi.encoded"


@dataclass(frozen=True, slots=True)
class CachedBody:
    """A body that is ready to be sent."""

    body: bytes
    etag: str


@dataclass(frozen=True)
class _Encoded:
    """A part as JSON, and when somebody asks as YAML, ready to be joined with others."""

    paths: bytes  # the items of an object, without its braces
    schemas: Mapping[str, bytes]
    tag: bytes

    @cached_property
    def yaml(self) -> tuple[str, Mapping[str, str]]:
        """Paths and schemas, indented as they stand in the document."""
        paths = from_json(b"{" + self.paths + b"}")
        schemas = {
            name: _below({name: from_json(schema)}, "components", "schemas") for name, schema in self.schemas.items()
        }
        return _below(paths, "paths") if paths else "", schemas


@dataclass(frozen=True, slots=True)
class Document:
    """The document, but for what depends on the request: that is the items of another JSON object, *own*."""

    head: bytes
    tail: bytes
    parts: Sequence[_Encoded]  # what it was made of
    digest: str

    def json(self, own: bytes) -> CachedBody:
        """The document as JSON."""
        return CachedBody(self.head + own[1:-1] + self.tail, f'"{self.digest}{_digest(own)}"')

    def yaml(self, own: bytes) -> CachedBody:
        """The document as YAML; put together of its parts, for all at once would take seconds for hundreds."""
        tags = from_json(b"[" + b",".join(each.tag for each in self.parts) + b"]")
        schemas: dict[str, str] = {}
        for each in self.parts:
            schemas.update(each.yaml[1])
        text = [
            _dumped({**_HEAD, **from_json(own), "tags": tags}),
            "paths:\n",
            *(each.yaml[0] for each in self.parts),
            _dumped({"components": _COMPONENTS}),
            "  schemas:\n",
            *(schemas[name] for name in sorted(schemas)),
        ]
        return CachedBody("".join(text).encode(), f'"{self.digest}{_digest(own)}y"')


_HEAD = {
    "openapi": "3.1.0",
    "info": {
        "title": "hayhooks",
        "version": __version__,
        "description": "Haystack pipelines and agents, as REST endpoints and as models of OpenAI's API.",
    },
}

_COMPONENTS = {
    "responses": RESPONSES,
    "securitySchemes": {"bearerAuth": {"type": "http", "scheme": "bearer", "description": "One of the API keys."}},
}

_TAGS = (
    {"name": OPENAI, "description": "For OpenAI's clients; pipelines are models."},
    {"name": SERVER, "description": "What is served, and how it is."},
)


def document_of(generation: Generation) -> Document:
    """Describe *generation*; for hundreds of new deployments that takes seconds."""
    deployments = generation.snapshot.deployments.values()
    of_server = fragment(generation.router.routes)
    server = _encoded(OpenApiFragment(of_server.paths, {**SHARED, **of_server.schemas}), *_TAGS)
    parts = [*(_encoded_part(deployment) for deployment in deployments), server]
    schemas: dict[str, bytes] = {}
    for each in parts:
        schemas.update(each.schemas)
    head = encode(_HEAD)[:-1] + b","
    tail = b"".join(
        [
            b',"tags":[',
            b",".join(each.tag for each in parts),
            b'],"paths":{',
            b",".join(each.paths for each in parts if each.paths),
            b'},"components":',
            encode(_COMPONENTS)[:-1],
            b',"schemas":{',
            b",".join(encode(name) + b":" + schemas[name] for name in sorted(schemas)),
            b"}}}",
        ]
    )
    return Document(head, tail, parts, _digest(head + tail))


def _encoded_part(deployment: Deployment) -> _Encoded:
    """The part of *deployment*, kept with it: a new generation describes only what is new in it."""
    made = deployment.runtime.cache
    if _KEY not in made:
        described = {"description": sendable(deployment.description)} if deployment.description else {}
        made[_KEY] = _encoded(_part(deployment), {"name": deployment.name, **described})
    encoded: _Encoded = made[_KEY]
    return encoded


def _part(deployment: Deployment) -> OpenApiFragment:
    return fragment(deployment.endpoints.router.routes, deployment.name)


def _encoded(described: OpenApiFragment, *tags: Mapping[str, str]) -> _Encoded:
    schemas = {component: encode(schema) for component, schema in described.schemas.items()}
    return _Encoded(encode(described.paths)[1:-1], schemas, b",".join(encode(tag) for tag in tags))


def _dumped(value: Any) -> str:
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text


def _below(value: Any, *keys: str) -> str:
    """The YAML of *value* as it is below *keys*, each of them one line."""
    for key in reversed(keys):
        value = {key: value}
    return _dumped(value).split("\n", len(keys))[len(keys)]


def schema_of(deployment: Deployment) -> CachedBody:
    """The JSON schemas of each operation of *deployment*, which stand for themselves: ``/{name}/schema``."""
    described = _part(deployment)
    components = {**SHARED, **described.schemas}
    operations = [
        {
            "method": method.upper(),
            "path": path,
            "summary": operation["summary"],
            "description": operation.get("description", ""),
            "request": _alone(operation.get("requestBody", {}), components),
            "response": _alone(operation["responses"]["200"], components),
        }
        for path, item in described.paths.items()
        for method, operation in item.items()
        if path != f"/{deployment.name}/schema"
    ]
    body = encode({"name": deployment.name, "description": sendable(deployment.description), "operations": operations})
    return CachedBody(body, f'"{_digest(body)}"')


def _alone(body: Mapping[str, Any], components: Mapping[str, Any]) -> dict[str, Any]:
    """By content type, the schemas of a request's or response's body."""
    return {kind: inline_refs(media["schema"], components) for kind, media in body.get("content", {}).items()}


def _digest(body: bytes) -> str:
    return hashlib.blake2b(body, digest_size=8).hexdigest()
