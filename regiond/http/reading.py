"""From the bytes of a request to values: JSON, models, queries and headers, with every mistake in one answer."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, TypeVar, get_origin
from urllib.parse import parse_qsl

from pydantic import BaseModel, ValidationError

from regiond.http.bodies.base import Query
from regiond.http.problems import Problem, invalid
from regiond.http.routing import Upload, Uploaded

MAX_ERRORS: Final = 50
MAX_QUERY_PARAMETERS: Final = 200
MAX_IDEMPOTENCY_KEY_LENGTH: Final = 200
MAX_REQUEST_ID_LENGTH: Final = 128
MAX_REMEMBERED_QUERY: Final = 100

M = TypeVar("M", bound=BaseModel)
Q = TypeVar("Q", bound=Query)


def read_body(model: type[M], content_type: str | None, body: bytes) -> M:
    """Raises a Problem: unsupported-media-type, malformed-json, invalid-request."""
    if not body:
        raise Problem("malformed-json", "a JSON object is expected as the body")
    if not _is_json(content_type):
        raise Problem("unsupported-media-type", "send the body as Content-Type: application/json")
    try:
        value = _JSON.decode(body.decode())
    except UnicodeDecodeError as error:
        raise Problem("malformed-json", "the body is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise Problem(
            "malformed-json", f"{error.msg} at line {error.lineno}, column {error.colno}", position=error.pos
        ) from error
    except RecursionError as error:
        raise Problem("malformed-json", "nested too deeply") from error
    except ValueError as error:
        raise Problem("malformed-json", str(error)[:200]) from error
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise _mistakes(model, error, lambda entry: _place_in(value, entry)) from error


def read_upload(upload: Upload, content_type: str | None, body: bytes) -> Uploaded:
    """Raises a Problem: unsupported-media-type, invalid-request."""
    kind, charset = _media_type(content_type)
    if kind not in upload.media_types or charset not in _UTF_8:
        known = ", ".join(upload.media_types)
        raise Problem("unsupported-media-type", f"send the file, in UTF-8, as Content-Type: one of {known}")
    if not body:
        raise invalid("", "a file is expected as the body")
    return Uploaded(kind, body)


def understand_query(model: type[Q], text: str) -> tuple[Q, Sequence[tuple[str, str]]]:
    """The values of a query as it came, and the names and values that it was written with. Raises a Problem."""
    # Programs ask with the same few short queries again and again.
    return _understand_short(model, text) if len(text) <= MAX_REMEMBERED_QUERY else _understand(model, text)


def _understand(model: type[Q], text: str) -> tuple[Q, Sequence[tuple[str, str]]]:
    pairs = split_query(text)
    return read_query(model, pairs), pairs


_understand_short = lru_cache(1024)(_understand)


def read_query(model: type[Q], pairs: Sequence[tuple[str, str]]) -> Q:
    """Raises the Problem invalid-request: unknown parameters, repeated ones that may not be, bad values."""
    values: dict[str, Any] = {}
    repeated = []
    for name, text in pairs:
        field = model.model_fields.get(name)
        if field is not None and get_origin(field.annotation) is list:
            values.setdefault(name, []).append(text)
        elif name in values:
            repeated.append(name)
        else:
            values[name] = text
    if repeated:
        raise invalid(f"?{repeated[0]}", "given more than once")
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _mistakes(model, error, _parameter) from error


def split_query(text: str) -> list[tuple[str, str]]:
    """The names and values of a query as it came. Raises the Problem invalid-request."""
    if not text:
        return []
    try:
        pairs = parse_qsl(
            text,
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=MAX_QUERY_PARAMETERS,
        )
    except ValueError as error:
        raise invalid("?", "the query cannot be read: expected name=value pairs of UTF-8 text, joined by &") from error
    for name, value in pairs:
        if not (name.isprintable() and value.isprintable()):
            raise invalid("?", "control characters are not allowed")
    return pairs


def read_idempotency_key(text: str | None) -> str | None:
    """Raises the Problem invalid-request."""
    if text is None:
        return None
    if not 1 <= len(text) <= MAX_IDEMPOTENCY_KEY_LENGTH or not _is_visible_ascii(text):
        raise invalid("Idempotency-Key", f"1 to {MAX_IDEMPOTENCY_KEY_LENGTH} visible ASCII characters")
    return text


def read_if_match(text: str | None) -> frozenset[str] | None:
    """The entity tags of an If-Match header; None for no header and for `*`: a thing has to be there anyway.

    A weak tag never matches (RFC 9110, 13.1.1), and neither does what is no tag: the condition is false then.
    """
    if text is None or text.strip() == "*":
        return None
    return frozenset(tag for tag in map(str.strip, text.split(",")) if tag.startswith('"'))


def acceptable_request_id(text: str | None) -> str | None:
    """The request id of the caller, if it may be used."""
    if text and len(text) <= MAX_REQUEST_ID_LENGTH and _is_visible_ascii(text):
        return text
    return None


def _is_visible_ascii(text: str) -> bool:
    return all("!" <= character <= "~" for character in text)


_UTF_8: Final = ("", "charset=utf-8")


def _is_json(content_type: str | None) -> bool:
    kind, charset = _media_type(content_type)
    return kind == "application/json" and charset in _UTF_8


def _media_type(content_type: str | None) -> tuple[str, str]:
    """The type and its one parameter that matters, in lower case. `header` of text/csv is of no matter (RFC 7111)."""
    kind, _, parameters = (content_type or "").partition(";")
    told = [part.strip().lower().replace('"', "") for part in parameters.split(";")]
    return kind.strip().lower(), "; ".join(part for part in told if part and not part.startswith("header="))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the name {twice[:64]!r} is there twice in one object")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


_JSON: Final = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant)


def _mistakes(model: type[BaseModel], error: ValidationError, pointer: Callable[[Mapping[str, Any]], str]) -> Problem:
    found = error.errors(include_url=False, include_input=False)
    errors = [{"pointer": pointer(entry), "detail": _detail(model, entry)} for entry in found[:MAX_ERRORS]]
    first = errors[0]
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    detail = f"{first['pointer'] or 'the body'}: {first['detail']}{more}"
    return Problem("invalid-request", detail, errors=errors)


def _parameter(entry: Mapping[str, Any]) -> str:
    """The name of what is wrong in a query."""
    return f"?{entry['loc'][0]}" if entry["loc"] else "?"


def _place_in(body: Any, entry: Mapping[str, Any]) -> str:
    """An RFC 6901 pointer to what is wrong in a body. What pydantic says of its models' names is no part of it."""
    place: list[int | str] = []
    at = body
    for part in entry["loc"]:
        if isinstance(at, dict) and (part in at or (part == entry["loc"][-1] and entry["type"] == "missing")):
            at = at.get(part)
        elif isinstance(at, list) and isinstance(part, int):
            at = at[part]
        else:
            continue  # the name of the alternative that it was read as
        place.append(part)
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1")[:100] for part in place)


def _detail(model: type[BaseModel], entry: Mapping[str, Any]) -> str:
    if entry["type"] == "extra_forbidden":
        if len(entry["loc"]) > 1:
            return "not known here"
        known = ", ".join(model.model_fields) or "none"
        return f"not known here; known: {known}"
    if entry["type"] == "model_type":
        return "a JSON object is expected"
    raised = entry.get("ctx", {}).get("error")
    if entry["type"] in ("value_error", "assertion_error") and raised is not None:
        return str(raised)
    return str(entry["msg"])
