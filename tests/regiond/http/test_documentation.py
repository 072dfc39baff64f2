"""The OpenAPI document and the page made of it: complete, true, and without anything from elsewhere."""

import json
import re
from html.parser import HTMLParser
from typing import Any

import jsonschema_rs
import pytest
import pytest_twisted

from regiond.http.bodies.base import Body
from regiond.http.openapi import refusals
from regiond.http.problems import PROBLEMS
from regiond.http.reading import read_body
from regiond.http.routes import ROUTES
from tests.regiond.http.promises import described
from tests.regiond.http.serving import serving

BODIES = sorted({route.body for route in ROUTES if route.body is not None}, key=lambda model: model.__name__)


@pytest_twisted.ensureDeferred
async def test_the_document_is_served_without_a_token_and_names_every_route() -> None:
    async with serving() as server:
        reply = await server.request("GET", "/api/v1/openapi.json", token=None)
        assert reply.headers["content-type"] == "application/json"
        assert reply.json == json.loads(json.dumps(described()))
        assert reply.json["openapi"] == "3.1.0"
        documented = {(method.upper(), path) for path, item in reply.json["paths"].items() for method in item}
        assert documented == {(route.method, route.path) for route in ROUTES}


def test_every_reference_leads_somewhere_and_every_schema_is_one() -> None:
    text = json.dumps(described())
    for reference in set(re.findall(r'"\$ref": "#/([^"]+)"', text)):
        place: Any = described()
        for part in reference.split("/"):
            place = place[part]
    for schema in described()["components"]["schemas"].values():
        jsonschema_rs.Draft202012Validator({**schema, "components": described()["components"]})
    identifiers = re.findall(r'"operationId": "([^"]+)"', text)
    assert len(identifiers) == len(set(identifiers)) == len(ROUTES)


@pytest.mark.parametrize("model", BODIES, ids=lambda model: model.__name__)
def test_examples_are_bodies_that_are_taken(model: type[Body]) -> None:
    assert model.examples
    schema = {"$ref": f"#/components/schemas/{model.__name__}", "components": described()["components"]}
    validator = jsonschema_rs.Draft202012Validator(schema)
    for example in model.examples.values():
        assert validator.is_valid(example), example
        read_body(model, "application/json", json.dumps(example).encode())


def test_each_parameter_says_what_it_means() -> None:
    operations = [each for item in described()["paths"].values() for each in item.values()]
    parameters = [(one["operationId"], each) for one in operations for each in one["parameters"]]
    assert len(parameters) > len(operations)
    for operation, each in parameters:
        assert each.get("description") or each["schema"].get("description"), f"{operation}: {each['name']}"


def test_every_problem_is_some_routes() -> None:
    """`method-not-allowed` is what a path answers, not a route."""
    assert {slug for route in ROUTES for slug in refusals(route)} == set(PROBLEMS) - {"method-not-allowed"}


class Page(HTMLParser):
    """What a page is made of. Every element is closed, and nothing is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.elements: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.elements.add(tag)
        self.ids.add(values.get("id") or "")
        assert "src" not in values and "style" not in values
        if "href" in values:
            self.links.append(values["href"] or "")


@pytest_twisted.ensureDeferred
async def test_the_page_has_all_and_needs_nothing_from_elsewhere() -> None:
    async with serving() as server:
        reply = await server.request("GET", "/api/v1/docs", token=None)
        assert reply.headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in reply.headers["content-security-policy"]
        page = Page()
        page.feed(reply.body.decode())
        assert not page.elements & {"script", "link", "img", "iframe", "object"}
        for link in page.links:
            assert link == "/api/v1/openapi.json" or link.removeprefix("#") in page.ids, link
        for route in ROUTES:
            assert route.path.encode() in reply.body
