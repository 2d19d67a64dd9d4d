"""The OpenAPI document of a generation, and the JSON schemas of one deployment.

Describing takes most of the time. What a deployment adds is therefore kept with it: a new generation describes only
new deployments.
"""

from collections.abc import Mapping
from typing import Any

import yaml
from pydantic_core import from_json, to_json

from hayhooks._version import __version__
from hayhooks.errors import sendable
from hayhooks.http.cached_body import CachedBody
from hayhooks.http.json import encode
from hayhooks.http.switch import Generation
from hayhooks.kernel.state import Deployment
from hayhooks.openapi.describe import OPENAI, RESPONSES, SERVER, SHARED, OpenApiFragment, Schema, fragment
from hayhooks.openapi.type_schemas import inline_refs

_CACHE_KEY = "openapi.fragment"  # in the cache of a deployment

HEAD = {
    "openapi": "3.1.0",
    "info": {
        "title": "hayhooks",
        "version": __version__,
        "description": "Haystack pipelines and agents, as REST endpoints and as models of OpenAI's API.",
    },
}

_BEARER = {
    "bearerAuth": {
        "type": "http",
        "scheme": "bearer",
        "description": "One of the API keys. What its scopes do not allow is a 403 with code `insufficient_scope`; "
        "what exceeds its rate is a 429 with code `rate_limit_exceeded` and `Retry-After`.",
    }
}

_TAGS = (
    {"name": OPENAI, "description": "For OpenAI's clients; pipelines are models."},
    {"name": SERVER, "description": "The deployments, their state, and the server."},
)


def document_of(generation: Generation, *, has_keys: bool) -> dict[str, Any]:
    """Describe all of *generation* that does not depend on the request; seconds for hundreds of new deployments."""
    server = fragment(generation.router.routes)
    tags: list[Schema] = []
    paths: dict[str, Schema] = {}
    schemas: dict[str, Schema] = {}
    for deployment in generation.snapshot.deployments.values():
        added = _fragment_of(deployment)
        description = {"description": sendable(deployment.description)} if deployment.description else {}
        tags.append({"name": deployment.name, **description})
        paths.update(added.paths)
        schemas.update(added.schemas)
    schemas |= {**SHARED, **server.schemas}
    components: Schema = {"responses": RESPONSES, "schemas": dict(sorted(schemas.items()))}
    document = {"tags": [*tags, *_TAGS], "paths": {**paths, **server.paths}, "components": components}
    if has_keys:
        components["securitySchemes"] = _BEARER
        document["security"] = [{"bearerAuth": []}]
    return document


def request_fields(root_path: str) -> dict[str, Any]:
    """Return the fields of the document that depend on a request's *root_path*."""
    # Without one OpenAPI's default holds: of a server "/" and a path "/echo/run" tools make "//echo/run".
    return {"servers": [{"url": root_path}]} if root_path else {}


def whole_document(generation: Generation, root_path: str, *, has_keys: bool) -> dict[str, Any]:
    """Return the document of *generation*, which the caller may change."""
    described = document_of(generation, has_keys=has_keys)
    document: dict[str, Any] = from_json(json_body({**HEAD, **request_fields(root_path), **described}).body)
    return document


def json_body(document: Mapping[str, Any]) -> CachedBody:
    """Encode *document* as JSON."""
    # Not by http.json.encode: fragments hold plain values only, and its walk takes most of the time.
    return CachedBody(to_json(document, inf_nan_mode="null"))


def yaml_body(document: Mapping[str, Any]) -> CachedBody:
    """Encode *document* as YAML; seconds for hundreds of deployments."""
    plain = from_json(json_body(document).body)
    text: str = yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return CachedBody(text.encode())


def schema_of(deployment: Deployment) -> CachedBody:
    """Encode the self-contained JSON schemas of each operation of *deployment*: ``/{name}/schema``."""
    added = _fragment_of(deployment)
    components = {**SHARED, **added.schemas}

    def schemas(body: Mapping[str, Any]) -> dict[str, Any]:
        return {kind: inline_refs(media["schema"], components) for kind, media in body.get("content", {}).items()}

    operations = [
        {
            "method": method.upper(),
            "path": path,
            "summary": operation["summary"],
            "description": operation.get("description", ""),
            "request": schemas(operation.get("requestBody", {})),
            "response": schemas(next(body for status, body in operation["responses"].items() if status[0] == "2")),
        }
        for path, item in added.paths.items()
        for method, operation in item.items()
        if path != f"/{deployment.name}/schema"
    ]
    description = sendable(deployment.description)
    return CachedBody(encode({"name": deployment.name, "description": description, "operations": operations}))


def _fragment_of(deployment: Deployment) -> OpenApiFragment:
    cache = deployment.runtime.cache
    if _CACHE_KEY not in cache:
        cache[_CACHE_KEY] = fragment(deployment.endpoints.router.routes, deployment.name)
    kept: OpenApiFragment = cache[_CACHE_KEY]
    return kept


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Writes repeated values in full: not every OpenAPI tool reads YAML's aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
