"""One address, one server: also while its Triton loads its models, and so has not bound its ports yet."""

from __future__ import annotations

import os
import subprocess

import pytest
from fixtures.ports import free_ports
from fixtures.serving import COMMAND, Server
from fixtures.waiting import HANGS_AFTER_S, until

from depthface import cache
from depthface.errors import ServeError
from depthface_client import Client
from depthface_server.address import Address
from depthface_server.api import Api

MODEL = "depth_anything_v2_small"


@pytest.mark.parametrize("key", ["", "the-key-of-the-operator"], ids=["a key each", "one key"])
def test_of_two_servers_at_one_address_one_serves_and_the_other_says_that_it_is_taken(
    repository, monkeypatch, tmp_path, key
):
    """They begin at the same moment. The one that serves keeps its key, its log and its models."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # where no other server has left a log
    http, grpc, metrics = map(str, free_ports(3))
    ports = ("--http-port", http, "--grpc-port", grpc, "--metrics-port", metrics)
    servers = [
        Server(
            subprocess.Popen(
                [*COMMAND, "serve", "--repository", str(repository), *ports],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=os.environ | {"PYTHONUNBUFFERED": "1", "DEPTHFACE_ADMIN_KEY": key},
            )
        )
        for _ in range(2)
    ]
    try:
        until(lambda: any(server.process.poll() is not None for server in servers), "the end of one")
        loser, winner = sorted(servers, key=lambda server: server.process.poll() is None)
        winner.wait_until_ready()
        assert loser.process.wait() == 1
        assert any(f"Port {http} on 127.0.0.1 cannot be used" in line for line in loser.lines), loser.lines
        with Client(winner.host, admin_key=key or None) as client:
            client.load(MODEL)
        assert f"127.0.0.1-{http}" in {path.name for path in (cache.folder() / "keys").iterdir()}
        logs = {path.name for path in (cache.folder() / "logs").glob(f"triton-127.0.0.1-{http}.log*")}
        assert logs == {f"triton-127.0.0.1-{http}.log"}
        assert not any("starting it again" in line for line in winner.lines), winner.lines
    finally:
        for server in servers:
            server.process.terminate()
            server.process.wait(HANGS_AFTER_S)


def test_an_address_is_held_by_one_server_port_by_port():
    address = Address.free("127.0.0.1", 0, 0, 0)
    beside = Address.free("127.0.0.1", 0, 0, 0)
    other = Address(address.host, address.ip, beside.http_port, address.grpc_port, beside.metrics_port)
    with address.held():
        Address.free("127.0.0.1", address.http_port, address.grpc_port, address.metrics_port)  # nobody listens yet
        with pytest.raises(ServeError, match=rf"Port {address.grpc_port} .*--grpc-port"), other.held():
            pass
    with other.held():
        pass


def test_who_answers_at_its_port_is_not_taken_for_the_server_that_was_started(server, lab):
    host, _, port = server.host.partition(":")
    assert lab.triton.api.is_live(lab.triton._id)
    assert not Api(host, int(port), "").is_live(lab.triton._id)
