"""Whether an answer is one that the OpenAPI document promises: its status, headers, body and problem type.

Every answer of the HTTP tests goes through here, and what was seen is kept, so that a test can tell what was never.
"""

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import jsonschema_rs

from regiond.http.openapi import document
from regiond.http.problems import MEDIA_TYPE
from regiond.http.routes import ROUTES
from regiond.http.routing import Router

_ROUTER = Router(ROUTES)
seen: set[tuple[str, str, int, str | None]] = set()
"""Method, path template, status and problem type of every answer so far."""


@cache
def described() -> dict[str, Any]:
    return document(ROUTES)


@cache
def _validator(method: str, path: str, status: int, media_type: str) -> Any:
    answer = described()["paths"][path][method.lower()]["responses"][str(status)]
    schema = answer["content"][media_type]["schema"]
    return jsonschema_rs.Draft202012Validator({**schema, "components": described()["components"]})


def check(method: str, target: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
    """Raises AssertionError for an answer that is not documented. Header names are lower case."""
    problem = json.loads(body)["type"] if headers.get("content-type") == MEDIA_TYPE and body else None
    found = _ROUTER.find(target.partition("?")[0])
    route = None if found is None else found.routes.get("GET" if method == "HEAD" else method)
    if route is None:
        nothing = {"not-found"} if found is None else {"method-not-allowed"}
        assert problem in nothing or (method, status) == ("OPTIONS", 204), f"{method} {target}: {status} {problem}"
        return
    seen.add((route.method, route.path, status, problem))
    operation = described()["paths"][route.path][route.method.lower()]
    assert str(status) in operation["responses"], f"{method} {target}: {status} {problem} is not documented"
    promised = operation["responses"][str(status)]
    for name in headers:
        title = name.title().replace("Etag", "ETag").replace("Www", "WWW").replace("-Id", "-ID")
        known = {"Content-Type", "Content-Length", "Date", "Cache-Control", "Connection", "Content-Security-Policy"}
        known.add("Content-Encoding")  # treq's own: what it unpacked, nothing here
        assert title in known or title in promised["headers"], f"{method} {target}: {status} with {title}"
    if method == "HEAD" or not body:
        assert method == "HEAD" or "content" not in promised, f"{method} {target}: {status} without a body"
        return
    media_type = headers["content-type"].partition(";")[0]
    assert media_type in promised["content"], f"{method} {target}: {status} as {media_type}"
    if media_type.endswith("json"):
        errors = list(_validator(route.method, route.path, status, media_type).iter_errors(json.loads(body)))
        assert not errors, f"{method} {target}: {status}: {errors[0].message} at {errors[0].instance_path}"
