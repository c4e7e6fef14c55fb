"""Who may do what: the operator's APIs ask for the key over HTTP and gRPC, and nothing else leads around them."""

from __future__ import annotations

import base64
import http.client
import json
import os
import stat
import uuid
from pathlib import Path

import pytest
from fixtures.photos import VARIETY
from fixtures.processes import command_line
from fixtures.serving import Server, depthface
from tritonclient import grpc
from tritonclient.utils import InferenceServerException

from depthface import admin, cache
from depthface.contract import ADMIN_HEADER
from depthface.errors import InvalidInput
from depthface_client import Client, NotAllowed

MODEL = "depth_anything_v2_small"
NEVER = Path("/tmp", f"depthface_{uuid.uuid4().hex}")
"""A file that nobody makes, of a name that no other run has."""

GOOD = VARIETY["tiny 40×30"]

FORBIDDEN = {
    "index": ("POST", "/v2/repository/index", {}),
    "load": ("POST", f"/v2/repository/models/{MODEL}/load", {}),
    "unload": ("POST", f"/v2/repository/models/{MODEL}/unload", {}),
    "load with files": (
        "POST",
        "/v2/repository/models/mine/load",
        {"parameters": {"config": '{"backend":"python"}', "file:1/model.py": "cGFzcw=="}},
    ),
    "system shared memory": ("GET", "/v2/systemsharedmemory/status", None),
    "registering shared memory": (
        "POST",
        "/v2/systemsharedmemory/region/mine/register",
        {"key": "/mine", "offset": 0, "byte_size": 64},
    ),
    "CUDA shared memory": ("GET", "/v2/cudasharedmemory/status", None),
    "trace": ("POST", "/v2/trace/setting", {"trace_file": str(NEVER)}),
    "a model's trace": ("POST", f"/v2/models/{MODEL}/trace/setting", {"trace_level": ["TENSORS"]}),
    "logging": ("POST", "/v2/logging", {"log_file": str(NEVER)}),
}

# What an answer never holds: where the server keeps things, and how its code is called.
LEAKS = ("Traceback", ".py", "site-packages", "/tmp", "/root", "/home", "/opt", "/dev/shm", "_src/")


def ask(server: Server, method: str, path: str, body: object = None, **headers: str) -> tuple[int, str]:
    """Send the path as it is, which urllib would tidy up."""
    connection = http.client.HTTPConnection(server.host, timeout=60)
    try:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body)
        connection.request(method, path, data, {key.replace("_", "-"): value for key, value in headers.items()})
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")
    finally:
        connection.close()


def key_file(server: Server) -> Path:
    return cache.folder() / "keys" / server.host.replace(":", "-")


def grpc_url(server: Server) -> str:
    return f"grpc://127.0.0.1:{server.port('grpc')}"


@pytest.mark.parametrize("name", FORBIDDEN)
def test_an_operators_api_is_closed_without_the_key(server, name):
    method, path, body = FORBIDDEN[name]
    for headers in ({}, {"x_depthface_admin": "not-the-right-key-at-all"}):
        status, text = ask(server, method, path, body, **headers)
        assert status == 403
        assert not [leak for leak in LEAKS if leak in text]
    assert not NEVER.exists()
    assert ask(server, "GET", f"/v2/models/{MODEL}/ready")[0] == 200


def test_the_same_over_grpc(server):
    with grpc.InferenceServerClient(f"127.0.0.1:{server.port('grpc')}") as client:
        assert client.is_model_ready(MODEL)
        for call in (
            client.get_model_repository_index,
            lambda **options: client.load_model(MODEL, **options),
            lambda **options: client.unload_model(MODEL, **options),
            client.get_system_shared_memory_status,
            client.get_trace_settings,
            client.get_log_settings,
        ):
            with pytest.raises(InferenceServerException, match="restricted"):
                call()
        index = client.get_model_repository_index(
            headers={f"triton-grpc-protocol-{ADMIN_HEADER}": key_file(server).read_text()}
        )
        assert MODEL in {model.name for model in index.models}


def test_the_servers_own_user_needs_to_give_no_key_and_others_get_a_clear_no(server):
    for url in (server.host, grpc_url(server)):
        with Client(url) as client:
            client.load(MODEL)
    with Client(server.host, admin_key="not-the-right-key-at-all") as stranger:
        for call in (stranger.load, stranger.unload):
            with pytest.raises(NotAllowed, match="DEPTHFACE_ADMIN_KEY"):
                call(MODEL)
        assert stranger.depth(GOOD).size == (30, 40)  # what is for everyone is for everyone
        assert {model.name for model in stranger.models() if model.ready} == {MODEL}
    done = depthface("unload", MODEL, "--url", server.host, DEPTHFACE_ADMIN_KEY="not-the-right-key-at-all")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert "Traceback" not in done.stderr


def test_the_key_is_in_its_file_alone(server):
    path = key_file(server)
    key = path.read_text()
    assert len(key) >= 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert not [process for process in server.family if key in " ".join(command_line(process))]
    assert key not in "\n".join(server.lines)
    log = cache.folder() / "logs" / f"triton-{server.host.replace(':', '-')}.log"
    assert key not in log.read_text(errors="replace")


def test_a_key_goes_to_no_other_machine(server, monkeypatch):
    monkeypatch.delenv(admin.VARIABLE, raising=False)
    port = server.host.rpartition(":")[2]
    for own in (port, server.port("grpc")):
        assert admin.headers(f"127.0.0.1:{own}") == {ADMIN_HEADER: key_file(server).read_text()}
    assert admin.headers(f"example.org:{port}") == {}
    assert admin.headers("127.0.0.1:1") == {}


def test_servers_at_one_port_of_several_addresses_have_each_its_key(monkeypatch, tmp_path):
    """And one that was killed, whose file stays, leaves its place to the next."""
    monkeypatch.delenv(admin.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    admin.publish("192.0.2.1", 8000, "of another address")
    assert admin.headers("127.0.0.1:8000") == {}
    admin.publish("0.0.0.0", 8000, "of all addresses")
    os.utime(tmp_path / "depthface" / "keys" / "0.0.0.0-8000", (0, 0))
    for host in ("127.0.0.1", "localhost"):
        assert admin.headers(f"{host}:8000") == {ADMIN_HEADER: "of all addresses"}
    assert admin.headers("[::1]:8000") == {}
    admin.publish("127.0.0.1", 8000, "of this one")
    assert admin.headers("127.0.0.1:8000") == {ADMIN_HEADER: "of this one"}
    admin.hide("127.0.0.1", 8000, "of another server")
    assert admin.headers("127.0.0.1:8000") == {ADMIN_HEADER: "of this one"}
    admin.hide("127.0.0.1", 8000, "of this one")
    assert admin.headers("127.0.0.1:8000") == {ADMIN_HEADER: "of all addresses"}


@pytest.mark.parametrize("key", ["short", "with a blank in the middle", "with,comma:and=signs0"])
def test_a_key_that_triton_would_read_otherwise_is_refused(monkeypatch, key):
    monkeypatch.setenv(admin.VARIABLE, key)
    with pytest.raises(InvalidInput, match="16 letters"):
        admin.chosen_key()


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/..%2f..%2fetc/config",
        "/v2/models/../../etc/passwd",
        "/v2/models/..%2f..%2f..%2fetc%2fpasswd/ready",
        f"/v2/models/{MODEL}/versions/..%2f..%2f1/config",
        "/v2/models/%2e%2e/config",
        "/v2/models//etc/passwd/config",
        "/v2/models/" + "a" * 5000 + "/config",
        "/../../etc/passwd",
    ],
)
def test_no_path_leads_out_of_the_repository(server, path):
    status, text = ask(server, "GET", path)
    assert 400 <= status < 500
    assert "root:" not in text
    assert not [leak for leak in LEAKS if leak in text.replace(path, "")]


@pytest.mark.parametrize("name", ["..", "..%2f..%2fetc", "%2fetc", "../../etc"])
def test_even_the_operator_loads_nothing_from_outside_the_repository(server, name):
    status, _ = ask(
        server, "POST", f"/v2/repository/models/{name}/load", {}, x_depthface_admin=key_file(server).read_text()
    )
    assert status >= 400


@pytest.mark.parametrize("file", ["file:../../../../../../../../../..{}", "file:1/../../../../../../../../../..{}"])
def test_even_the_operator_writes_no_file_outside_triton(server, tmp_path, file):
    target = tmp_path / "written"
    body = {
        "parameters": {
            "config": '{"backend":"python","max_batch_size":0}',
            file.format(target): base64.b64encode(b"x").decode(),
        }
    }
    status, _ = ask(
        server, "POST", "/v2/repository/models/mine/load", body, x_depthface_admin=key_file(server).read_text()
    )
    assert status >= 400
    assert not target.exists()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (f"/v2/models/{MODEL}/infer", b""),
        (f"/v2/models/{MODEL}/infer", b"{"),
        (f"/v2/models/{MODEL}/infer", b"\xff" * 100),
        (f"/v2/models/{MODEL}_network/infer", b'{"inputs":[]}'),
        (
            f"/v2/models/{MODEL}_network/infer",
            b'{"inputs":[{"name":"pixels","shape":[1,13,15,3],"datatype":"UINT8","data":[' + b"1," * 584 + b"1]}]}",
        ),
        (f"/v2/models/{MODEL}/generate", b"{}"),
        ("/v2/nothing", b"{}"),
    ],
    ids=["empty", "half a JSON", "bytes", "no inputs", "no grid", "generate", "no such path"],
)
def test_no_answer_says_where_or_how_the_server_runs(server, path, body):
    status, text = ask(server, "POST", path, body)
    assert status >= 400
    assert not [leak for leak in LEAKS if leak in text], text
    assert ask(server, "GET", f"/v2/models/{MODEL}/ready")[0] == 200
