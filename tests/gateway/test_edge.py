"""The edge before the contracts' own routes: what it refuses is said in each contract's own form."""

from __future__ import annotations

import pytest
import requests
from starlette.testclient import TestClient

from depthface_gateway.context import Context
from depthface_gateway.contracts import contract_named
from depthface_gateway.settings import Settings
from depthface_gateway.triton import Triton

ROUTES = [
    ("immich", "/predict", "image"),
    ("immichvr", "/api/depth", "image"),
    ("faces", "/recognition/embedding", "file"),
    ("faces", "/v1/detect", "image"),
    ("faces", "/multipart/draw_detections", "file"),
    ("faces", "/api/v1/detection/detect", "file"),
    ("depthflow", "/api/v1/process", "file"),
    ("page", "/api/depth", "image"),
]
"""Of each contract those that take a form with a photo, and what it is called there."""


def context_of(**variables: str) -> Context:
    told = {f"DEPTHFACE_GATEWAY_{name}": value for name, value in variables.items()}
    settings = Settings.of(told)
    return Context(Triton(["127.0.0.1:1"], settings), settings, told)


def asking(name: str, context: Context) -> TestClient:
    return TestClient(contract_named(name).app(context), headers={"x-request-id": "mine"})


def form(field: str, size: int) -> tuple[bytes, dict[str, str]]:
    """A form with a file of so many bytes, and its header."""
    request = requests.Request("POST", "http://x/", files={field: ("a.jpg", bytes(size))}).prepare()
    return request.body, {"content-type": request.headers["content-type"]}


@pytest.mark.parametrize(("name", "path", "field"), ROUTES)
def test_a_form_that_is_too_large_is_so_whether_its_length_is_told_or_counted(name, path, field):
    asked = asking(name, context_of(MAX_MIB="0.015625"))
    body, headers = form(field, 20_000)
    told = asked.post(path, content=body, headers=headers)
    counted = asked.post(path, content=iter([body]), headers=headers)
    assert "content-length" in told.request.headers
    assert "content-length" not in counted.request.headers
    assert (counted.status_code, counted.json()) == (told.status_code, told.json())
    assert told.status_code == (400 if name == "depthflow" else 413)
    assert "The request is larger than 0.015625 MiB" in told.text
    assert "file_too_large" in told.text or name != "depthflow"


@pytest.mark.parametrize(("name", "path", "field"), ROUTES)
def test_where_too_much_is_held_each_says_so_in_its_own_form(name, path, field):
    context = context_of(MAX_MIB="1", HELD_MIB="1")
    asked, held = asking(name, context), context.held
    held.bytes = 2**20 - 10_000
    body, headers = form(field, 20_000)
    answers = [asked.post(path, content=content, headers=headers) for content in (body, iter([body]))]
    assert held.bytes == 2**20 - 10_000
    for answer in answers:
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert answer.json() == answers[0].json()
        assert answer.json().keys() == asked.get(f"{path}/nothing").json().keys()
        assert "would hold more than 1 MiB" in answer.text
    assert "service_busy" in answers[0].text or name != "depthflow"
