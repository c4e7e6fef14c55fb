"""OpenAPI as the contract: what docs/openapi/ says of each app is what the app says.

python tests/gateway/test_openapi.py    # writes docs/openapi/ anew, for a change that is meant
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from depthface_gateway.context import Context
from depthface_gateway.contracts import NAMES, contract_named
from depthface_gateway.settings import Settings
from depthface_gateway.triton import Triton

FOR_READERS = ("$defs", "description", "example", "examples", "summary", "title")

FOLDER = Path(__file__).parents[2] / "docs" / "openapi"


def app_of(name: str, **variables: str) -> FastAPI:
    settings = Settings.of(variables)
    return contract_named(name).app(Context(Triton(["127.0.0.1:8000"], settings), settings, variables))


def document(name: str) -> dict[str, Any]:
    return app_of(name).openapi()


def plain(schema: Any, named: dict[str, Any]) -> Any:
    """A schema, or a part of one: its references followed, without what is for readers alone."""
    if isinstance(schema, list):
        return [plain(one, named) for one in schema]
    if not isinstance(schema, dict):
        return schema
    named = named | schema.get("$defs", {})
    if "$ref" in schema:
        return plain(named[schema["$ref"].rpartition("/")[2]], named)
    found = {key: plain(value, named) for key, value in schema.items() if key not in (*FOR_READERS, "properties")}
    if "properties" in schema:  # one of them may be called "title"
        found["properties"] = {name: plain(one, named) for name, one in schema["properties"].items()}
    if "required" in found:
        found["required"] = sorted(found["required"])
    if found.pop("contentMediaType", None):  # as newer FastAPIs write it
        found["format"] = "binary"
    if found.get("additionalProperties") is True:  # which it is without a word
        del found["additionalProperties"]
    return found


def essence(document: dict[str, Any]) -> dict[str, Any]:
    """What a caller depends on, however a version of FastAPI writes it."""
    named = document["components"]["schemas"]

    def contents(of: dict[str, Any]) -> dict[str, Any]:
        return {kind: plain(content.get("schema", {}), named) for kind, content in of.get("content", {}).items()}

    def parameters(operation: dict[str, Any]) -> dict[str, Any]:
        found = operation.get("parameters", [])
        return {f"{one['in']} {one['name']}": (one["required"], plain(one["schema"], named)) for one in found}

    return {
        f"{method.upper()} {path}": {
            "parameters": parameters(operation),
            "body": contents(operation.get("requestBody", {})),
            "answers": {  # FastAPI's own words for 422 are told by each version in another way
                status: {} if status == "422" else contents(answer) for status, answer in operation["responses"].items()
            },
        }
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_app_keeps_to_its_document(name):
    written = json.loads((FOLDER / f"{name}.json").read_text())
    assert essence(document(name)) == essence(written)


@pytest.mark.parametrize(
    ("told", "instead"),
    [
        ({"type": "integer", "maximum": 9}, {"type": "integer", "maximum": 8}),
        ({"type": "string", "enum": ["mp4", "gif"]}, {"type": "string", "enum": ["mp4"]}),
        ({"type": "string", "default": "a"}, {"type": "string", "default": "b"}),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, {"type": "string"}),
        ({"properties": {"title": {"type": "string"}}}, {"properties": {"title": {"type": "integer"}}}),
        ({"$ref": "#/components/schemas/A"}, {"$ref": "#/components/schemas/B"}),
    ],
)
def test_a_field_of_another_type_limit_or_choice_is_another(told, instead):
    named = {"A": {"type": "integer"}, "B": {"type": "number"}}
    assert plain(told | {"description": "x"}, named) == plain(told | {"title": "y"}, named) != plain(instead, named)


@pytest.mark.parametrize("name", NAMES)
def test_operations_are_told_apart(name):
    ids = [operation["operationId"] for methods in document(name)["paths"].values() for operation in methods.values()]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("name", NAMES)
def test_people_read_it_where_the_original_shows_it(name):
    asked = TestClient(app_of(name))
    for path in ("/docs", "/redoc"):
        answer = asked.get(path)
        assert answer.status_code == (404 if name == "page" else 200)
        assert ("/openapi.json" in answer.text) == (name != "page")
        assert path not in document(name)["paths"]


@pytest.mark.parametrize("name", NAMES)
def test_who_must_show_a_key_must_show_it_for_the_document_too(name):
    asked = TestClient(app_of(name, DEPTHFACE_GATEWAY_API_KEY="secret"))
    is_keyed = name not in ("immich", "jobs")
    for path in ("/openapi.json",) if name == "page" else ("/openapi.json", "/docs", "/redoc"):
        assert asked.get(path).status_code == (401 if is_keyed else 200)
        assert asked.get(path, headers={"x-api-key": "secret"}).status_code == 200


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in NAMES:
        (FOLDER / f"{name}.json").write_text(json.dumps(document(name), indent=2, ensure_ascii=False) + "\n")
