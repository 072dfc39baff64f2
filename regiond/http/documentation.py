"""The documentation of the API, as served by the daemon itself: the OpenAPI document, and a page made of it.

The page is plain HTML without a script or anything from elsewhere, made once.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from html import escape
from typing import Any, Final

from regiond.http import openapi
from regiond.http.bodies.base import NoQuery
from regiond.http.routing import BASE, Access, Answer, Call, Raw, Route
from regiond.http.use_cases import UseCases

HTML: Final = "text/html; charset=utf-8"
_POLICY: Final = ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
_METHODS: Final = ("get", "post", "patch", "delete")

_STYLE: Final = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
code, pre { font: 14px/1.45 ui-monospace, monospace; }
pre { background: var(--soft); padding: .7rem; overflow-x: auto; border-radius: .3rem; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
nav a { margin-right: .8rem; }
details { border: 1px solid var(--line); border-radius: .3rem; margin: .4rem 0; padding: .3rem .7rem; }
details details { border: 0; padding: 0 0 0 .5rem; }
summary { cursor: pointer; }
.method { display: inline-block; min-width: 4.2rem; font-weight: 700; }
.get { color: #2a7ae2; } .post { color: #1a8a4a; } .patch { color: #b07a00; } .delete { color: #c33; }
.about { float: right; opacity: .75; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0; }
td, th { text-align: left; vertical-align: top; padding: .2rem .7rem .2rem 0; border-bottom: 1px solid var(--line); }
"""


def routes_for(nouns: Sequence[Route]) -> list[Route]:
    """The routes of the documentation of these routes and of themselves."""

    @cache
    def described() -> dict[str, Any]:
        return openapi.document([*nouns, *own])

    @cache
    def source() -> bytes:
        return json.dumps(described(), ensure_ascii=False).encode()

    @cache
    def page() -> bytes:
        return page_of(described()).encode()

    async def read_openapi(use: UseCases, call: Call[None, NoQuery]) -> Answer:
        return Answer(200, Raw("application/json", source()))

    async def read_page(use: UseCases, call: Call[None, NoQuery]) -> Answer:
        return Answer(200, Raw(HTML, page()), [_POLICY])

    own = [
        Route(
            "GET",
            f"{BASE}/openapi.json",
            read_openapi,
            Access.ANYBODY,
            "This API as an OpenAPI 3.1 document",
            shows=dict[str, Any],
        ),
        Route("GET", f"{BASE}/docs", read_page, Access.ANYBODY, "This API as a page to read", shows=Raw(HTML)),
    ]
    return own


def page_of(document: Mapping[str, Any]) -> str:
    """The document as HTML."""
    info = document["info"]
    by_tag: dict[str, list[tuple[str, str, Mapping[str, Any]]]] = {tag["name"]: [] for tag in document["tags"]}
    for path, operations in document["paths"].items():
        for method in _METHODS:
            if method in operations:
                by_tag[operations[method]["tags"][0]].append((method, path, operations[method]))
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(info['title'])} API</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(info['title'])} <small>{escape(info['version'])}</small></h1>",
        f"<p>{escape(info['summary'])}. <a href='{BASE}/openapi.json'>OpenAPI document</a></p>",
        *_paragraphs(info["description"]),
        "<nav>",
        *(f"<a href='#{tag}'>{tag}</a>" for tag in by_tag),
        "<a href='#schemas'>schemas</a></nav>",
    ]
    for tag, operations in by_tag.items():
        parts.append(f"<h2 id='{tag}'>{escape(tag)}</h2>")
        for method, path, operation in operations:
            parts.extend(_operation(method, path, operation))
    parts.append("<h2 id='schemas'>schemas</h2>")
    for name, schema in document["components"]["schemas"].items():
        parts.append(f"<details id='schema-{name}'><summary><code>{escape(name)}</code></summary>")
        parts.extend((*_schema(schema), "</details>"))
    parts.append("</body></html>")
    return "\n".join(parts)


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f"<details><summary><span class='method {method}'>{method.upper()}</span> <code>{escape(path)}</code>"
    yield f"<span class='about'>{escape(operation['summary'])}</span></summary>"
    for paragraph in filter(None, operation.get("description", "").split("\n\n")):
        yield f"<p>{_code(paragraph)}</p>"
    yield f"<p><em>For: {_WHO[operation['x-access']]}.</em></p>"
    if operation["parameters"]:
        yield "<table><tr><th>parameter<th>in<th>type<th>meaning</tr>"
        for parameter in operation["parameters"]:
            schema = parameter["schema"]
            about = parameter.get("description") or schema.get("description", "")
            yield f"<tr><td><code>{escape(parameter['name'])}</code><td>{parameter['in']}"
            yield f"<td>{_type(schema)}<td>{_code(about)}</tr>"
        yield "</table>"
    if "requestBody" in operation:
        for media_type, content in operation["requestBody"]["content"].items():
            yield f"<p>Body, as {escape(media_type)}: {_type(content['schema'])}</p>"
            for name, example in content.get("examples", {}).items():
                yield f"<p>{escape(name)}:</p><pre>{_json(example['value'])}</pre>"
            if "example" in content:
                yield f"<pre>{escape(content['example'])}</pre>"
    yield "<table><tr><th>status<th>body<th>meaning</tr>"
    for status, answer in operation["responses"].items():
        shown = [_type(content["schema"]) for content in answer.get("content", {}).values()]
        yield f"<tr><td>{status}<td>{' '.join(shown)}<td>{_code(answer['description'])}</tr>"
    yield "</table></details>"


_WHO: Final = {"anybody": "anybody, without a token", "user": "every account", "admin": "admins"}


def _schema(schema: Mapping[str, Any]) -> Iterator[str]:
    if "description" in schema:
        yield f"<p>{_code(schema['description'])}</p>"
    if "properties" not in schema:
        yield f"<p>{_type(schema)}</p>"
        return
    required = schema.get("required", ())
    yield "<table><tr><th>member<th>type<th>meaning</tr>"
    for name, member in schema["properties"].items():
        about = _code(member.get("description", "")) + ("" if name in required else " <em>not always there</em>")
        yield f"<tr><td><code>{escape(name)}</code><td>{_type(member)}<td>{about}</tr>"
    yield "</table>"


def _type(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"<a href='#schema-{name}'>{escape(name)}</a>"
    for kind in ("anyOf", "oneOf", "allOf"):
        if kind in schema:
            return " | ".join(_type(option) for option in schema[kind])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if "enum" in schema or "const" in schema:
        return " | ".join(f"<code>{escape(str(value))}</code>" for value in schema.get("enum", [schema.get("const")]))
    bounds = [f"{word} {json.dumps(schema[key])}" for key, word in _BOUNDS.items() if key in schema]
    form = [schema["format"].removeprefix("hostmap-").replace("-", " ")] if "format" in schema else []
    return escape(", ".join([str(schema.get("type", "anything")), *form, *bounds]))


_BOUNDS: Final = {
    "minimum": "from",
    "maximum": "to",
    "minLength": "characters: at least",
    "maxLength": "characters: at most",
    "default": "default",
}


def _paragraphs(text: str) -> Iterator[str]:
    """The little Markdown that the description has: paragraphs and one list."""
    about, _, points = text.partition("\n\n")
    yield f"<p>{_code(about)}</p><ul>"
    for point in points.strip().removeprefix("* ").split("\n* "):
        yield f"<li>{_code(point)}</li>"
    yield "</ul>"


def _code(text: str) -> str:
    """Escaped, with what stands between backticks as code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if index % 2 else part for index, part in enumerate(parts))


def _json(value: Any) -> str:
    return escape(json.dumps(value, indent=2))
