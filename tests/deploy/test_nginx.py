"""deploy/nginx/depthface.conf in the real nginx: what comes through to the server behind it, and what does not."""

from __future__ import annotations

import base64
import gzip
import hashlib
import http.client
import json
import re
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from fixtures.deploy import ROOT
from fixtures.photos import VARIETY
from fixtures.ports import free_ports, wait_for_port
from fixtures.waiting import HANGS_AFTER_S

from depthface.families import all_cards
from depthface.families.insightface.card import DET_10G, W600K_R50, pack_card
from depthface_client import Client, NotAllowed

CONFIG = (ROOT / "deploy" / "nginx" / "depthface.conf").read_text()
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
MODEL = "depth_anything_v2_small"
INFER = f"/v2/models/{MODEL}/infer"
RAW = {"Inference-Header-Content-Length": "0"}
KNOWN = {"Authorization": f"Basic {base64.b64encode(b'ann:secret').decode()}"}

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed (Debian: apt install nginx-light)")


class Behind(BaseHTTPRequestHandler):
    """What stands for Triton and notes what reaches it."""

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen.append((self.command, self.path, {key.lower() for key in self.headers}))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_GET = do_POST = do_DELETE = answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@dataclass
class Front:
    """An nginx with this configuration; its two ports, and what came through."""

    open_port: int
    known_port: int
    seen: list[tuple[str, str, set[str]]] = field(default_factory=list)

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None, *, known: bool = False
    ) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.known_port if known else self.open_port, timeout=60)
        try:
            connection.request(method, path, body, (KNOWN if known else {}) | (headers or {}))
            response = connection.getresponse()
            return response.status, response.read().decode(errors="replace")
        finally:
            connection.close()


def start(folder: Path, upstream: str) -> tuple[subprocess.Popen[bytes], Front]:
    """Check the configuration as nginx does, and run it in front of `upstream`."""
    front = Front(*free_ports(2))
    text = CONFIG.replace("127.0.0.1:8000", upstream)
    for port, ours in (("8080", front.open_port), ("8081", front.known_port)):
        assert text.count(f"listen {port};") == 1
        text = text.replace(f"listen {port};", f"listen 127.0.0.1:{ours};")
    (folder / "depthface.conf").write_text(text)
    (folder / "depthface.users").write_text(
        f"ann:{{SHA}}{base64.b64encode(hashlib.sha1(b'secret').digest()).decode()}\n"
    )
    folders = " ".join(
        f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    main = folder / "nginx.conf"
    main.write_text(
        f"daemon off; pid {folder}/pid; error_log {folder}/error.log; events {{}}\n"
        f"http {{ access_log off; {folders} include {folder}/depthface.conf; }}\n"
    )
    checked = subprocess.run([NGINX, "-t", "-p", folder, "-c", main], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert "[warn]" not in checked.stderr.replace('[warn] the "user" directive', "")
    process = subprocess.Popen([NGINX, "-p", folder, "-c", main])
    wait_for_port(front.open_port)
    return process, front


def open_to_all(folder: Path) -> Path:
    """Return a folder of pytest's that nginx's workers may read, who are another user."""
    for path in (folder, *folder.parents):
        if path == Path(tempfile.gettempdir()):
            break
        path.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """In front of a stand-in that notes what reaches it."""
    folder = open_to_all(tmp_path_factory.mktemp("nginx"))
    behind = ThreadingHTTPServer(("127.0.0.1", 0), Behind)
    threading.Thread(target=behind.serve_forever, args=(0.05,), daemon=True).start()
    process, front = start(folder, f"127.0.0.1:{behind.server_port}")
    behind.seen = front.seen
    yield front
    process.terminate()
    process.wait(HANGS_AFTER_S)
    behind.shutdown()
    behind.server_close()


CRASHING = json.dumps(
    {
        "inputs": [{"name": "image", "shape": [1, 1], "datatype": "BYTES", "data": ["x"]}],
        "outputs": [{"name": "png8", "parameters": {"classification": 3}}],
    }
).encode()

# Of a stranger: method, path, body, headers, and the status that it gets.
STOPPED = {
    "a request with JSON": ("POST", INFER, CRASHING, {}, 415),
    "JSON before a photo": ("POST", INFER, CRASHING, {"Inference-Header-Content-Length": str(len(CRASHING))}, 415),
    "two headers of length": ("POST", INFER, b"x", {"Inference-Header-Content-Length": "0, 5"}, 415),
    "a body that inflates": ("POST", INFER, gzip.compress(bytes(2**20)), RAW | {"Content-Encoding": "gzip"}, 415),
    "a network's tensors": ("POST", f"/v2/models/{MODEL}_network/infer", b"{}", RAW, 404),
    "a version of a network": ("POST", f"/v2/models/{MODEL}_network/versions/1/infer", b"{}", RAW, 404),
    "a way round by dots": ("POST", f"/v2/models/{MODEL}/../{MODEL}_network/infer", b"{}", RAW, 404),
    "a way round in code": ("POST", f"/v2/models/{MODEL}%2f..%2f{MODEL}_network/infer", b"{}", RAW, 404),
    "a line in the name": ("POST", f"/v2/models/{MODEL}%0a/infer", b"{}", RAW, 404),
    "loading": ("POST", f"/v2/repository/models/{MODEL}/load", b"{}", {}, 404),
    "the index": ("POST", "/v2/repository/index", b"{}", {}, 404),
    "shared memory": ("GET", "/v2/systemsharedmemory/status", b"", {}, 404),
    "tracing": ("POST", "/v2/trace/setting", b"{}", {}, 404),
    "logging": ("POST", "/v2/logging", b"{}", {}, 404),
    "generating": ("POST", f"/v2/models/{MODEL}/generate", b"{}", {}, 404),
    "statistics": ("GET", "/v2/models/stats", b"", {}, 404),
    "another method": ("DELETE", INFER, b"", RAW, 403),
    "too long a body": ("POST", INFER, bytes(64 * 2**20 + 1), RAW, 413),
}


@pytest.mark.parametrize("name", STOPPED)
def test_what_a_stranger_may_not_ask_does_not_reach_the_server(front, name):
    method, path, body, headers, expected = STOPPED[name]
    before = len(front.seen)
    try:
        status, text = front.ask(method, path, body, headers)
    except (BrokenPipeError, ConnectionResetError):  # refused before the body was sent to its end
        assert expected == 413
    else:
        assert status == expected
        assert json.loads(text)["error"]
    assert len(front.seen) == before


def test_a_photo_of_a_stranger_reaches_it_whole_and_without_a_key(front):
    assert front.ask("POST", INFER, b"photo", RAW | {"x-depthface-admin": "stolen"})[0] == 200
    method, path, headers = front.seen[-1]
    assert (method, path) == ("POST", INFER)
    assert "x-depthface-admin" not in headers
    assert "inference-header-content-length" in headers
    assert front.ask("GET", "/v2/health/ready")[0] == 200


def test_a_body_in_pieces_arrives_with_a_length(front):
    with socket.create_connection(("127.0.0.1", front.open_port), timeout=60) as connection:
        head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nInference-Header-Content-Length: 0\r\n"
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n".encode())
        connection.sendall(b"1\r\nx\r\n" * 1000 + b"0\r\n\r\n")
        assert b" 200 " in connection.makefile("rb").readline()
    assert "content-length" in front.seen[-1][2]
    assert "transfer-encoding" not in front.seen[-1][2]


def test_the_other_door_takes_requests_of_the_client_from_those_who_are_known(front):
    assert front.ask("POST", INFER, CRASHING, known=True)[0] == 200
    assert front.ask("GET", f"/v2/models/{MODEL}/config", known=True)[0] == 200
    assert "authorization" not in front.seen[-1][2]
    before = len(front.seen)
    assert front.ask("POST", f"/v2/models/{MODEL}_network/infer", b"{}", known=True)[0] == 404
    assert front.ask("POST", "/v2/repository/index", b"{}", known=True)[0] == 404
    assert front.ask("POST", INFER, b"", {"Content-Encoding": "gzip"}, known=True)[0] == 415
    assert front.ask("POST", INFER, CRASHING, {"Authorization": ""}, known=True)[0] == 401
    assert len(front.seen) == before


def test_its_names_are_those_of_public_models_and_of_no_network():
    open_door, known_door = (
        re.compile(found) for found in re.findall(r'location ~ "(\S+/infer\$)"', CONFIG.replace("?<model>", ""))
    )
    public = {pipeline.name for card in all_cards().values() for pipeline in card.pipelines}
    networks = {network.name for card in all_cards().values() for network in card.networks}
    assert {name for name in public if known_door.match(f"/v2/models/{name}/infer")} == public
    assert not [name for name in networks if known_door.match(f"/v2/models/{name}/infer")]
    one_photo = {
        pipeline.name
        for card in all_cards().values()
        for pipeline in card.pipelines
        if [tensor.name for tensor in pipeline.inputs] == ["image"]
    }
    assert {name for name in public if open_door.match(f"/v2/models/{name}/infer")} == one_photo
    own = pack_card("a-b.1", (DET_10G, W600K_R50))  # a folder may have such a name
    assert all(known_door.match(f"/v2/models/{pipeline.name}/infer") for pipeline in own.pipelines)
    assert not [network.name for network in own.networks if known_door.match(f"/v2/models/{network.name}/infer")]


def test_a_photo_goes_through_to_the_real_server(server, tmp_path_factory):
    folder = open_to_all(tmp_path_factory.mktemp("nginx_real"))
    process, front = start(folder, server.host)
    try:
        status, text = front.ask("POST", INFER, VARIETY["tiny 40×30"], RAW)
        assert (status, "png8" in text) == (200, True)
        status, text = front.ask("POST", INFER, b"no photo", RAW)
        assert (status, "invalid_image" in text) == (400, True)
        with Client(f"ann:secret@127.0.0.1:{front.known_port}") as client:
            assert client.depth_png(VARIETY["tiny 40×30"], model=MODEL)
        with Client(f"ann:wrong@127.0.0.1:{front.known_port}") as client, pytest.raises(NotAllowed, match="login"):
            client.depth_png(VARIETY["tiny 40×30"], model=MODEL)
    finally:
        process.terminate()
        process.wait(HANGS_AFTER_S)
