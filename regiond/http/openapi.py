"""The OpenAPI 3.1 document, made of what serves the requests: the routes, the types of bodies and queries, the shapes.

Nothing is written down twice: which problems a route can answer follows from what it takes and who may use it, and
from its `refusals`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, Final, get_args

from pydantic import TypeAdapter
from pydantic.json_schema import models_json_schema

from regiond.domain.events import EVENT_ID_PATTERN
from regiond.domain.ids import ID_BITS, Prefix
from regiond.http.bodies.base import Body, Change, Forcing, Query
from regiond.http.problems import MEDIA_TYPE, PROBLEMS
from regiond.http.routing import Access, Raw, Route, Streamed
from regiond.http.shapes.problems import Problem

_REFERENCE: Final = "#/components/schemas/{model}"
_CHANGING: Final = frozenset({"POST", "PATCH", "DELETE"})

_ABOUT: Final = """\
Addresses for machines on several sites: claims, host maps, releases.

* Every request but those to `/healthz`, `/readyz` and this documentation needs
  `Authorization: Bearer hm_…`, except on the region's own UNIX socket, whose owner is the admin `local`.
* Errors are `application/problem+json` (RFC 9457); `type` is stable, and the members after `request_id` are for
  programs.
* `Idempotency-Key` on POST, PATCH and DELETE: the same key and request get the first answer for 24 hours, and nothing
  is done again; the same key with another request gets 422. A request is its method, path, query (but for `wait`) and
  body. A token that was made is shown once: in a repeated answer it is null. Of a node, token, subnet, VRF or range
  that was made only the id is kept under the key: the repeated answer shows it as it is then, and is 404 `not-found`
  ("… that this request made is gone since") when somebody has deleted it meanwhile. Even then nothing is made again.
* `ETag` and `If-Match`: a change or deletion of anything but the version that was read is refused with 412.
* Lists are cut into pages of `limit`; `Link: <…>; rel="next"` leads to the next one. The values of a
  repeated filter are alternatives.
* `X-Request-ID` is taken from the request or made, returned, logged by every daemon it concerns, and kept in the audit.
* A request that is no HTTP is answered 400 or 431 without a body, and the connection is closed.
"""

_HEADERS: Final[Mapping[str, dict[str, Any]]] = {
    "X-Request-ID": {"description": "what the logs and the audit know this request by", "schema": {"type": "string"}},
    "ETag": {"description": "the version, for If-Match", "schema": {"type": "string"}},
    "Location": {"description": "where it is", "schema": {"type": "string"}},
    "Link": {"description": 'the next page: <…>; rel="next"', "schema": {"type": "string"}},
    "Content-Disposition": {"description": "what to call the file", "schema": {"type": "string"}},
    "Retry-After": {"description": "seconds to wait before the next attempt", "schema": {"type": "integer"}},
    "WWW-Authenticate": {"description": "RFC 6750", "schema": {"type": "string"}},
    "Allow": {"description": "the methods there are", "schema": {"type": "string"}},
    "X-Accel-Buffering": {"description": "asks proxies to pass on at once what comes", "schema": {"type": "string"}},
}


_PATH_PARAMETERS: Final = {
    "cluster": "the id of the cluster, or its name",
    "subnet": "the id of the subnet, or a selector",
    "user": "the id of the account, or its name",
    "vrf": "the id of the VRF, or its name",
    "interface": "the id of the cluster interface",
}
_SENT_HEADERS: Final = {
    "Last-Event-ID": {
        "description": "the last `id` that came: what happened since then comes first; empty, as if it were not there",
        "schema": {"type": "string", "pattern": f"^({EVENT_ID_PATTERN})?$"},
    }
}


def document(routes: Iterable[Route]) -> dict[str, Any]:
    """All of it, as JSON values."""
    rows = list(routes)
    paths: dict[str, dict[str, Any]] = {}
    for route in rows:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "hostmap",
            "version": version("hostmap"),
            "summary": "One place to ask for an IP address on any network of several sites",
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(map(_tag, rows))],
        "paths": paths,
        "components": {
            "schemas": _schemas(rows),
            "headers": dict(_HEADERS),
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "a token: `hm_…`"},
            },
        },
    }


def refusals(route: Route) -> list[str]:
    """The problem types that a route can answer, in the order of the table."""
    found = {"invalid-request", "body-too-large", "internal-error", *route.refusals}
    if route.access is not Access.ANYBODY:
        found |= {"unauthenticated", "database-unavailable", "too-many-requests"}
        if route.method in _CHANGING:
            found |= {"read-only-token", "idempotency-key-reused"}
    if route.access is Access.ADMIN or issubclass(route.query, Forcing):
        found.add("not-permitted")
    if "{" in route.path:
        found.add("not-found")
    if route.body is not None:
        found |= {"malformed-json", "unsupported-media-type"}
    if route.upload is not None:
        found.add("unsupported-media-type")
    if route.conditional:
        found.add("stale-version")
    return [slug for slug in PROBLEMS if slug in found]


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": f"{route.handler.__module__.rpartition('.')[2]}.{route.handler.__name__}",
        "tags": [_tag(route)],
        "summary": route.summary,
        "parameters": list(_parameters(route)),
        "responses": _responses(route),
        "security": [] if route.access is Access.ANYBODY else [{"token": []}],
        "x-access": route.access.value,
    }
    if route.handler.__doc__:
        operation["description"] = route.handler.__doc__
    if route.body is not None:
        schema = {"$ref": _REFERENCE.format(model=route.body.__name__)}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
        if route.body.examples:
            named = {name: {"value": value} for name, value in route.body.examples.items()}
            operation["requestBody"]["content"]["application/json"]["examples"] = named
    if route.upload is not None:
        examples = route.upload.examples
        operation["requestBody"] = {
            "required": True,
            "content": {
                media_type: {"schema": {"type": "string", "format": "hostmap-lines", "minLength": 1}}
                | ({"example": examples[media_type]} if media_type in examples else {})
                for media_type in route.upload.media_types
            },
        }
    return operation


def _parameters(route: Route) -> Iterator[dict[str, Any]]:
    for name in re.findall(r"\{([a-z_]+)\}", route.path):
        schema = {"type": "string", "minLength": 1}
        about = _PATH_PARAMETERS.get(name, f"the id of the {name}")
        yield {"name": name, "in": "path", "required": True, "schema": schema, "description": about}
    described = _plain_schema(route.query)
    for name, schema in described["properties"].items():
        required = name in described.get("required", ())
        if name == "after" and route.list_of is not None:
            schema = {
                "type": "string",
                "pattern": _id_pattern(route.list_of),
                "description": "the id of the last entry of the page before",
            }
        yield {"name": name, "in": "query", "required": required, "schema": schema}
    if route.method in _CHANGING and route.access is not Access.ANYBODY:
        yield {
            "name": "Idempotency-Key",
            "in": "header",
            "description": "makes a repeated request safe",
            "schema": {"type": "string", "pattern": "^[!-~]{1,200}$"},
        }
    for name in route.headers:
        yield {"name": name, "in": "header", **_SENT_HEADERS[name]}
    if route.conditional:
        yield {
            "name": "If-Match",
            "in": "header",
            "description": "entity tags as they stood in ETag headers, or *",
            "schema": {"type": "string"},
        }


def _responses(route: Route) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status in route.statuses:
        headers = ["X-Request-ID"]
        if 201 in route.statuses:
            headers.append("Location")
        if status in (200, 201) and "etag" in _members(route.shows) and route.list_of is None:
            headers.append("ETag")
        if route.list_of is not None or "after" in route.query.model_fields:
            headers.append("Link")
        if route.streams:
            headers.append("Content-Disposition")
        if route.pieces:
            headers.append("X-Accel-Buffering")
        answer: dict[str, Any] = {"description": HTTPStatus(status).phrase, "headers": _headers(headers)}
        if (content := _content(route, status)) is not None:
            answer["content"] = content
        responses[str(status)] = answer
    by_status: dict[int, list[str]] = {}
    for slug in refusals(route):
        by_status.setdefault(PROBLEMS[slug][0], []).append(slug)
    for status, slugs in sorted(by_status.items()):
        headers = ["X-Request-ID", *_HEADERS_OF_STATUS.get(status, ())]
        schema = {"allOf": [{"$ref": _REFERENCE.format(model="Problem")}], "properties": {"type": {"enum": slugs}}}
        responses[str(status)] = {
            "description": "; ".join(f"`{slug}`: {PROBLEMS[slug][1]}" for slug in slugs),
            "headers": _headers(headers),
            "content": {MEDIA_TYPE: {"schema": schema}},
        }
    return responses


_HEADERS_OF_STATUS: Final = {401: ["WWW-Authenticate"], 429: ["Retry-After"], 503: ["Retry-After"]}


def _content(route: Route, status: int) -> dict[str, Any] | None:
    if status == 204:
        return None
    if route.pieces:
        return {route.shows.media_type: {"schema": {"oneOf": [_event(*each) for each in route.pieces.items()]}}}
    if isinstance(route.shows, Raw | Streamed):
        return {route.shows.media_type.partition(";")[0]: {"schema": {"type": "string"}}}
    shown = route.releasing if status == 202 else route.shows
    assert shown is not None, f"{route.method} {route.path} does not say what it shows with {status}"
    schema = _without_definitions(shown)
    if route.list_of is not None:
        schema = {"type": "array", "items": schema}
    other = {media_type.partition(";")[0]: {"schema": {"type": "string"}} for media_type in route.streams}
    return {"application/json": {"schema": schema}, **other}


def _event(name: str, data: Any) -> dict[str, Any]:
    """One event of a stream, by its fields."""
    content = {"type": "string", "contentMediaType": "application/json", "contentSchema": _without_definitions(data)}
    return {
        "type": "object",
        "properties": {
            "event": {"const": name},
            "id": {"type": "string"},
            "data": content,
        },
        "required": ["event", "data"],
    }


def _headers(names: Iterable[str]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _members(shown: Any) -> set[str]:
    kinds = get_args(shown) or (shown,)
    return {name for kind in kinds for name in getattr(kind, "__annotations__", ())}


def _tag(route: Route) -> str:
    parts = route.path.split("/")
    return parts[3] if route.path.startswith("/api/v1/") else "daemon"


# ---- schemas ----


def _schemas(routes: Iterable[Route]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    shown: list[Any] = [Problem]
    for route in routes:
        if route.body is not None:
            found.update(_body_schemas(route.body))
        shown += [
            shape
            for shape in (route.shows, route.releasing, *route.pieces.values())
            if shape is not None and not isinstance(shape, Raw | Streamed)
        ]
    for shape in shown:
        described = TypeAdapter(shape).json_schema(mode="serialization", ref_template=_REFERENCE)
        found.update(described.pop("$defs", {}))
        if hasattr(shape, "__annotations__") and found.setdefault(shape.__name__, described) != described:
            raise ValueError(f"two types of bodies or answers are called {shape.__name__}")
    return {name: _tidy(schema) for name, schema in sorted(found.items())}


def _body_schemas(model: type[Body]) -> dict[str, Any]:
    _, described = models_json_schema([(model, "validation")], ref_template=_REFERENCE)
    found: dict[str, Any] = described["$defs"]
    if issubclass(model, Change):
        schema = found[model.__name__]
        schema["minProperties"] = 1
        for name, value in schema["properties"].items():
            value.pop("default", None)
            if name not in model.nullable:
                schema["properties"][name] = _without_null(value)
    return found


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    options = [option for option in schema.pop("anyOf", ()) if option != {"type": "null"}]
    return {**schema, **options[0]} if len(options) == 1 else {**schema, **({"anyOf": options} if options else {})}


def _plain_schema(model: type[Query]) -> dict[str, Any]:
    """A query's schema; a parameter that is not given is not null."""
    described = model.model_json_schema(ref_template=_REFERENCE)
    properties = {}
    for name, schema in described.get("properties", {}).items():
        schema = _without_null(_tidy(schema))
        if schema.get("default", 0) in (None, []):
            del schema["default"]
        properties[name] = schema
    return {**described, "properties": properties}


def _without_definitions(shape: Any) -> dict[str, Any]:
    if hasattr(shape, "__annotations__"):
        return {"$ref": _REFERENCE.format(model=shape.__name__)}
    described = TypeAdapter(shape).json_schema(mode="serialization", ref_template=_REFERENCE)
    described.pop("$defs", None)
    tidied: dict[str, Any] = _tidy(described)
    return tidied


def _tidy(schema: Any) -> Any:
    """Without the titles that pydantic makes of names."""
    if isinstance(schema, dict):
        return {key: _tidy(value) for key, value in schema.items() if not (key == "title" and isinstance(value, str))}
    return [_tidy(value) for value in schema] if isinstance(schema, list) else schema


def _id_pattern(prefix: Prefix) -> str:
    return f"^{prefix}-[0-9a-hjkmnp-tv-z]{{{ID_BITS // 5}}}$"
