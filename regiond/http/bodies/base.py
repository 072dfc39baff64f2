"""What all bodies and queries have in common: what is not named is an error, a PATCH, pages."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self, cast

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from regiond.http.fields import DEFAULT_PAGE, Flag, Limit, Mac, Wait

MAX_MACS = 16


class Body(BaseModel):
    """A JSON object; types are not guessed (`"3"` is no number)."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    examples: ClassVar[Mapping[str, Any]] = {}


def has(name: str, **more: Any) -> dict[str, Any]:
    """In a schema: the member is there, and not null."""
    kind = more or {"type": "string", "format": _FORMATS[name]}
    return {"required": [name], "properties": {name: kind}}


_FORMATS = {
    "address": "hostmap-address",
    "alias": "hostmap-line",
    "client_id": "hostmap-client-id",
    "duid": "hostmap-duid",
    "interface": "hostmap-selector",
    "mac": "hostmap-mac",
}


def rules(*given: dict[str, Any], never: list[tuple[dict[str, Any], dict[str, Any]]]) -> ConfigDict:
    """What a model's validators ask of several members, as a schema: any of `given`, and no pair of `never`."""
    found: list[dict[str, Any]] = [{"anyOf": list(given)}] if given else []
    found += [{"not": {"allOf": list(pair)}} for pair in never]
    return ConfigDict(json_schema_extra=cast("dict[str, JsonValue]", {"allOf": found}))


Macs = Annotated[list[Mac], Field(max_length=MAX_MACS, json_schema_extra={"uniqueItems": True})]


class Change(Body):
    """A PATCH: what is not there stays as it is; null only where a value can be taken away (`nullable`)."""

    nullable: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError(f"give at least one of {', '.join(type(self).model_fields)}")
        for name in sorted(self.model_fields_set - self.nullable):
            if getattr(self, name) is None:
                raise ValueError(f"{name} cannot be null")
        return self

    @property
    def given(self) -> dict[str, Any]:
        """What is to be changed, by name."""
        return {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}


class Query(BaseModel):
    """The query of a URL. A field that is a list may be repeated; every other one may not.

    `about_the_answer` are the parameters that change nothing of what is asked for.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    about_the_answer: ClassVar[frozenset[str]] = frozenset()

    @property
    def intent(self) -> str:
        """What is asked for, in one way of all that it can be written in; empty where that is nothing but defaults."""
        told = self.model_dump(mode="json", exclude_defaults=True, exclude=set(self.about_the_answer))
        ordered = {name: sorted(value) if isinstance(value, list) else value for name, value in told.items()}
        return json.dumps(ordered, sort_keys=True) if ordered else ""


class NoQuery(Query):
    """No parameter at all."""


class Waiting(Query):
    """How long the answer may wait until the host map is applied."""

    about_the_answer: ClassVar[frozenset[str]] = frozenset({"wait"})

    wait: Wait | None = None


class Forcing(Query):
    """Free the address at once, without the clusters' confirmation (admin)."""

    force: Annotated[Flag, Field(description="free it at once, without the clusters' confirmation (admin)")] = False


class Probing(Waiting):
    """Whether addresses are probed, and how long the answer may wait."""

    probe: Annotated[
        Flag | None,
        Field(
            description="find out on the wire that nobody uses an address before it is handed out; 503 where that "
            "cannot be. Without it as the subnet says, and where that cannot be it is claimed all the same (`probed`)"
        ),
    ] = None


class Claiming(Probing, Forcing):
    """Of one claim."""

    force: Annotated[Flag, Field(description="take an address that is leased to another client, or in use (admin)")] = (
        False
    )


class Page(Query):
    """A part of a list: `limit` entries after the one with the id `after`."""

    limit: Limit = DEFAULT_PAGE
    after: str | None = None


class FilteredPage(Page):
    """Filters; the values of one are alternatives, and all filters hold."""

    not_filters: ClassVar[frozenset[str]] = frozenset(Page.model_fields)

    @property
    def filters(self) -> dict[str, list[str]]:
        """The filters that are given, by name."""
        named = {name: getattr(self, name) for name in type(self).model_fields if name not in self.not_filters}
        return {name: values for name, values in named.items() if values}


def need_distinct(macs: list[str]) -> None:
    if len(set(macs)) < len(macs):
        raise ValueError("a MAC address is given twice")
