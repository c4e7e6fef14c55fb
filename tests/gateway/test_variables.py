"""The variables that the originals' users have set already: keys, origins (CORS), and those without effect here."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from depthface.errors import InvalidInput
from depthface_gateway.context import Context
from depthface_gateway.contracts import NAMES, contract_named
from depthface_gateway.settings import Settings, words
from depthface_gateway.triton import Triton

ON, OFF = {"INSIGHTFACE_AUTH_ENABLED": "true"}, {"INSIGHTFACE_AUTH_ENABLED": "false"}
THEIRS, OURS = {"INSIGHTFACE_API_KEY": "theirs"}, {"DEPTHFACE_GATEWAY_API_KEY": "ours"}
OPEN = {"AUTH_DISABLED": "true"}


def client_of(name: str, data: Path = Path("nowhere"), **variables: str) -> TestClient:
    """A client of a contract's app, which is not started, where no Triton answers."""
    settings = Settings.of(variables)
    context = Context(Triton(["127.0.0.1:1"], settings), settings, variables, data, f"sqlite:///{data}/jobs.sqlite3")
    return TestClient(contract_named(name).app(context))


@pytest.mark.parametrize(
    ("variables", "key"),
    [
        ({}, ""),
        (OURS, "ours"),
        (THEIRS, "theirs"),
        (THEIRS | ON, "theirs"),
        (THEIRS | OURS, "theirs"),
        (THEIRS | OFF, ""),
        (OFF, ""),
        (OURS | OFF, "ours"),
        (OURS | ON, "ours"),
        (OURS | {"INSIGHTFACE_API_KEY": ""}, "ours"),
        (OFF | {"INSIGHTFACE_API_KEY": ""}, ""),
    ],
)
def test_the_key_of_insightface_server_closes_the_service(variables, key):
    client = client_of("faces", **variables)
    assert client.get("/v1/health").json()["auth_enabled"] is bool(key)
    for path in ("/v1/models", "/info"):
        assert (client.get(path).status_code == 401) is bool(key)
    assert client.get("/v1/models", headers={"authorization": f"Bearer {key}"}).status_code == 503  # no Triton


@pytest.mark.parametrize("variables", [ON, {"INSIGHTFACE_API_KEY": " "}, ON | {"INSIGHTFACE_API_KEY": ""}])
def test_it_does_not_start_where_a_key_is_asked_for_and_there_is_none(variables):
    with pytest.raises(InvalidInput, match="INSIGHTFACE_API_KEY is empty"):
        client_of("faces", **variables)


A, B = "https://a.example", "https://b.example"
ORIGINS = {"DEPTHFACE_GATEWAY_ORIGINS": A}


@pytest.mark.parametrize(
    ("name", "variables", "allowed"),
    [
        ("immich", {}, set()),
        ("immichvr", {}, set()),
        ("page", {}, set()),
        ("faces", {}, {A, B}),
        ("faces", ORIGINS, {A}),
        ("faces", {"INSIGHTFACE_CORS_ORIGINS": B}, {B}),
        ("faces", ORIGINS | {"INSIGHTFACE_CORS_ORIGINS": B}, {B}),
        ("faces", {"DEPTHFACE_GATEWAY_FETCH_URLS": "1"}, set()),
        ("depthflow", {}, {A, B}),
        ("depthflow", ORIGINS, {A}),
        ("depthflow", {"CORS_ORIGINS": "*"}, {A, B}),
        ("depthflow", ORIGINS | {"CORS_ORIGINS": f'["{B}"]'}, {B}),
        ("jobs", {}, {A, B}),
        ("jobs", ORIGINS, {A}),
        ("jobs", OPEN, set()),
        ("jobs", OPEN | ORIGINS, {A}),
    ],
)
def test_pages_may_ask_whom_the_original_lets_or_its_users_do(name, variables, allowed):
    client = client_of(name, **variables)
    for origin in (A, B):
        asked = {"origin": origin, "access-control-request-method": "DELETE"}
        said = client.options("/somewhere", headers=asked).headers.get("access-control-allow-origin")
        assert (said in ("*", origin)) is (origin in allowed)
        answer = client.get("/openapi.json", headers={"origin": origin})
        assert (answer.headers.get("access-control-allow-origin") in ("*", origin)) is (origin in allowed)
        assert "access-control-allow-credentials" not in answer.headers


def test_a_list_of_pydantics_is_read_too():
    assert words({"X": '["a", " b ", ""]'}, "X") == ("a", "b")
    for wrong in ('["a"', "[1]", '[["a"]]'):
        with pytest.raises(InvalidInput, match="X is "):
            words({"X": wrong}, "X")


IN_VAIN = {
    "immich": {"MACHINE_LEARNING_WORKERS", "MACHINE_LEARNING_PRELOAD__OCR__DETECTION"},
    "immichvr": {"MODEL_CACHE_DIR"},
    "faces": {"INSIGHTFACE_MAX_IMAGE_BYTES", "DEF_DETECT_MASKS", "REC_NAME", "MAX_REQUEST_SIZE"},
    "jobs": {"MQTT_BROKER", "BROADCAST_TYPE"},
    "depthflow": {"MAX_UPLOAD_SIZE", "API_PREFIX", "REDIS_HOST", "CORS_ALLOW_METHODS"},
    "page": set(),
}
HEEDED = {"MACHINE_LEARNING_MODEL_TTL": "1", "INSIGHTFACE_DEFAULT_THRESHOLD": "0.3", "API_KEY": "x", "CORS_ORIGINS": A}


@pytest.mark.parametrize("name", NAMES)
def test_what_has_no_effect_is_told_by_its_own_contract_and_without_its_value(name, caplog):
    everything = dict.fromkeys(set().union(*IN_VAIN.values()), "s3cret") | HEEDED
    with caplog.at_level(logging.INFO):
        client_of(name, **everything)
    told = [record.getMessage() for record in caplog.records if "has no effect here" in record.getMessage()]
    assert {line.split()[0] for line in told} == IN_VAIN[name]
    assert "s3cret" not in caplog.text


def test_the_contracts_are_all_asked():
    assert set(IN_VAIN) == set(NAMES)
