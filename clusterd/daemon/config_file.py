"""Configuration files: TOML → frozen settings, with every mistake reported in one go.

    regiond.toml: [http] port: input should be less than or equal to 65535 (70000)
    regiond.toml: [http] prot: unknown key — did you mean "port"?

Values of keys whose name speaks of a secret are never repeated, nor is text that looks like a URL with a
password in it.
"""

import difflib
import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

M = TypeVar("M", bound=BaseModel)

MAX_ECHO_CHARACTERS = 60
MAX_SECRET_BYTES = 4096

_SECRET_NAME = re.compile(r"token|secret|password|passphrase|key", re.IGNORECASE)
_SECRET_TEXT = re.compile(r"://[^\s@:]*:[^@]*@|password\s*=", re.IGNORECASE)
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_TOML_POSITION = re.compile(r"^(?P<what>.*) \(at line (?P<line>\d+), column (?P<column>\d+)\)$", re.DOTALL)


class Strict(BaseModel):
    """The base of every table of a configuration file: unknown keys are mistakes, settings do not change."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("the path has to be absolute: a daemon's working directory is not where you are")
    return path


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]


class ConfigError(Exception):
    """A configuration that cannot be used. `str()` has one line per mistake; so has `mistakes`."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = tuple(mistakes)


def load(path: Path, model: type[M]) -> M:
    """The settings in the TOML file at `path`. Raises ConfigError."""
    try:
        content = tomllib.loads(path.read_bytes().decode())
    except FileNotFoundError as error:
        raise ConfigError([f"{path}: there is no such file"]) from error
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: is not UTF-8 text (byte {error.start})"]) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{path}: {_syntax_mistake(str(error))}"]) from error
    except RecursionError as error:
        raise ConfigError([f"{path}: is nested too deeply"]) from error
    return validate(content, model, str(path))


def validate(content: Mapping[str, Any], model: type[M], source: str) -> M:
    """Settings from parsed content; `source` is what mistakes are said to be in. Raises ConfigError."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=True)
    said: dict[str, list[str]] = {}
    for detail in details:
        where = _place(_location(detail), content)
        said.setdefault(where, []).append(_what_is_wrong(detail, model, content))
    # One value that fits no member of a union gives an error per member: one mistake, said in one line.
    mistakes = [f"{source}: {where}: {' or '.join(dict.fromkeys(what))}" for where, what in said.items()]
    raise ConfigError([_UNPRINTABLE.sub("?", mistake) for mistake in mistakes])


def read_secret(path: Path) -> str:
    """The one line of text in a file that only its owner (and group) can read, without surrounding white space.

    Raises ConfigError when it is missing, empty, longer than MAX_SECRET_BYTES, not text, or open to others.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(MAX_SECRET_BYTES + 1)
    except FileNotFoundError as error:
        raise ConfigError([f"{path}: there is no such file"]) from error
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
    if mode & 0o007:
        raise ConfigError([f"{path}: holds a secret but every user can open it (mode {mode:04o}) — chmod 600 {path}"])
    if len(content) > MAX_SECRET_BYTES:
        raise ConfigError([f"{path}: is longer than {MAX_SECRET_BYTES} bytes; expected one line"])
    try:
        secret = content.decode().strip()
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: is not UTF-8 text"]) from error
    if not secret or len(secret.splitlines()) > 1:
        raise ConfigError([f"{path}: expected one line of text"])
    return secret


def _syntax_mistake(message: str) -> str:
    found = _TOML_POSITION.match(message)
    if found is None:
        return message
    return f"line {found['line']}, column {found['column']}: {found['what']}"


def _location(detail: ErrorDetails) -> tuple[int | str, ...]:
    """Where the mistake is: what chooses the member of a union is a key like others."""
    if detail["type"] in ("union_tag_invalid", "union_tag_not_found"):
        return (*detail["loc"], detail["ctx"]["discriminator"].strip("'"))
    return detail["loc"]


def _steps(location: tuple[int | str, ...], content: object) -> Iterator[tuple[int | str, bool]]:
    """The steps of a location that lead through the content, each with whether it leads into a list.

    pydantic's locations also name members of unions; those are not in the file, except that the last step of
    all may be a key that is missing.
    """
    for position, step in enumerate(location):
        if isinstance(content, list) and isinstance(step, int) and step < len(content):
            content = content[step]
            yield step, True
        elif isinstance(content, Mapping) and step in content:
            content = content[str(step)]
            yield step, False
        elif isinstance(content, Mapping) and position == len(location) - 1:
            yield step, False


def _place(location: tuple[int | str, ...], content: Mapping[str, Any]) -> str:
    """`("http", "port")` → `[http] port`; the second `[[relay]]` table's `cidr` → `[[relay]] #2 cidr`."""
    steps = list(_steps(location, content))
    if not steps:
        return "the file"
    *tables, (key, in_list) = steps
    if in_list:
        return f"{_place(location[:-1], content)} #{int(key) + 1}"
    if not tables:
        return str(key)
    name = ".".join(str(step) for step, listed in tables if not listed)
    numbers = "".join(f"#{int(step) + 1} " for step, listed in tables if listed)
    return f"[[{name}]] {numbers}{key}" if numbers else f"[{name}] {key}"


def _what_is_wrong(detail: ErrorDetails, model: type[BaseModel], content: Mapping[str, Any]) -> str:
    location = detail["loc"]
    if detail["type"] == "extra_forbidden":
        known = sorted(_known_keys(model, location[:-1]))
        near = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.6)
        hint = f'did you mean "{near[0]}"?' if near else f"known here: {', '.join(known) or 'none'}"
        return f"unknown key — {hint}"
    if detail["type"] == "union_tag_invalid":
        return f"expected one of {detail['ctx']['expected_tags']} ({_echo(detail['ctx']['tag'])})"
    if detail["type"] in ("missing", "union_tag_not_found"):
        return "is missing and has no default"
    message = _IN_TOML.get(detail["type"], detail["msg"])
    message = message.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    message = message[:1].lower() + message[1:] if message[1:2].islower() else message
    given = _echo(detail["input"])
    secret = any(_SECRET_NAME.search(str(step)) for step in location) or _SECRET_TEXT.search(str(detail["input"]))
    if secret:
        for spelling in (repr(detail["input"]), str(detail["input"])):
            message = message.replace(spelling, "…") if len(spelling) > 1 else message
        return f"{message} (value not shown)"
    if detail["type"] == "value_error" and isinstance(detail["input"], Mapping):
        return message  # of a whole table, whose keys do not go together
    return f"{message} ({given})"


_IN_TOML = {
    "tuple_type": "Input should be a list",
    "path_type": "Input should be a path, as text",
}
"""What pydantic says in Python's words."""


def _echo(value: object) -> str:
    if isinstance(value, Mapping):
        return "a table was given"
    if isinstance(value, list | tuple):
        return "a list was given"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= MAX_ECHO_CHARACTERS else f"{text[:MAX_ECHO_CHARACTERS]}…"


def _known_keys(model: type[BaseModel], location: tuple[int | str, ...]) -> set[str]:
    """The keys that the table at this location may have, over all models that it may be."""
    models = [model]
    for step in location:
        inner = [
            found
            for outer in models
            for name, field in outer.model_fields.items()
            if step == (field.alias or name)
            for found in _models_in(field.annotation)
        ]
        # A step that is no field of theirs is the index of a list, a key of a mapping or the tag of a union.
        models = inner or [outer for outer in models if _has_tag(outer, step)] or models
    return {field.alias or name for outer in models for name, field in outer.model_fields.items()}


def _has_tag(model: type[BaseModel], step: int | str) -> bool:
    annotations = (field.annotation for field in model.model_fields.values())
    return any(get_origin(annotation) is Literal and step in get_args(annotation) for annotation in annotations)


def _models_in(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return [annotation] if issubclass(annotation, BaseModel) else []
    if get_origin(annotation) in (Union, UnionType, list, tuple, dict) or get_args(annotation):
        return [found for argument in get_args(annotation) for found in _models_in(argument)]
    return []
