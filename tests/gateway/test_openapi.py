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

FOLDER = Path(__file__).parents[2] / "docs" / "openapi"


def app_of(name: str, **variables: str) -> FastAPI:
    settings = Settings.of(variables)
    return contract_named(name).app(Context(Triton(["127.0.0.1:8000"], settings), settings, variables))


def document(name: str) -> dict[str, Any]:
    return app_of(name).openapi()


def essence(document: dict[str, Any]) -> dict[str, Any]:
    """What a caller depends on, however a version of FastAPI writes it."""

    def body(operation: dict[str, Any]) -> dict[str, Any]:
        found = {}
        for kind, content in operation.get("requestBody", {}).get("content", {}).items():
            schema = content["schema"]
            if "$ref" in schema:
                schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
            found[kind] = (sorted(schema.get("properties", {})), sorted(schema.get("required", [])))
        return found

    return {
        f"{method.upper()} {path}": {
            "parameters": sorted((one["in"], one["name"], one["required"]) for one in operation.get("parameters", [])),
            "body": body(operation),
            "statuses": sorted(operation["responses"]),
        }
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_app_keeps_to_its_document(name):
    written = json.loads((FOLDER / f"{name}.json").read_text())
    assert essence(document(name)) == essence(written)


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
