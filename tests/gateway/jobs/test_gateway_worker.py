"""`depthface gateway-worker`, as a user starts it beside a service that does no work itself, on the real Triton."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
from fixtures.deploy import ROOT
from fixtures.gateways import MODEL, PORTRAIT, gateway
from fixtures.serving import Server
from fixtures.waiting import HANGS_AFTER_S, until
from prometheus_client import CollectorRegistry

from depthface_bench.servers import reserved_port
from depthface_gateway import cli
from depthface_gateway.jobs.database import Database
from depthface_gateway.jobs.metrics import TableMetrics, WorkerMetrics
from depthface_gateway.jobs.queue import Queue


@contextmanager
def worker(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run one, and give it when it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-m", "depthface", "gateway-worker", "jobs", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline().startswith("ready: ")
        yield process
    finally:
        process.kill()
        process.wait(HANGS_AFTER_S)
        process.stdout.close()


def test_it_does_the_jobs_answers_prometheus_and_ends(face_server: Server, database_url: str, tmp_path: Path) -> None:
    told = {"AUTH_DISABLED": "1", "DEPTHFACE_GATEWAY_FACE_MODEL": MODEL, "WORKER_POLL_INTERVAL": "0.05"}
    options = ("--data", str(tmp_path), "--database", database_url)
    with gateway("jobs", url=face_server.host, options=(*options, "--without-worker"), **told) as running:
        url = running.urls["jobs"]

        def get(path: str) -> requests.Response:
            return requests.get(url + path, timeout=HANGS_AFTER_S)

        photo = {"file": ("a.jpg", PORTRAIT)}
        made = requests.post(f"{url}/job/face_embedding", files=photo, timeout=HANGS_AFTER_S)
        assert made.status_code == 201 and get("/health").json()["worker"] == "unknown"
        path = f"/job/{made.json()['job_id']}"
        with (
            reserved_port() as port,
            worker("--url", face_server.host, *options, "--metrics-port", str(port), **told) as process,
        ):
            until(lambda: get(path).json()["status"] == "completed", "the end of the job")
            assert len(get(path).json()["result"]["faces"]) == 1
            assert get(f"{path}/files/faces/0.jpg").status_code == 200
            until(lambda: get("/health").json()["worker"] == "running", "the worker's first sign of life")

            def counted() -> str:
                return requests.get(f"http://127.0.0.1:{port}/metrics", timeout=HANGS_AFTER_S).text

            tries = 'depthface_job_tries_total{outcome="completed",task="face_embedding"} 1.0'
            until(lambda: tries in counted(), "the count of the try")  # it is counted when the job has ended
            assert "depthface_job_seconds_bucket" in counted()
            process.send_signal(signal.SIGTERM)
            assert process.wait(HANGS_AFTER_S) == 0
        assert get("/health").json()["worker"] == "unknown", "it has said goodbye"


def test_the_page_of_jobs_names_every_metric_and_the_option_for_them(database: Database) -> None:
    registry = CollectorRegistry()
    WorkerMetrics(registry)
    registry.register(TableMetrics(Queue(database, ["t"])))
    names = {found.name + ("_total" if found.type == "counter" else "") for found in registry.collect()}
    assert "depthface_job_tries_total" in names
    page = (ROOT / "docs" / "jobs.md").read_text()
    assert [name for name in (*names, "gateway-worker --metrics-port") if f"`{name}" not in page] == []


def test_the_help_names_the_variables_and_choices() -> None:
    for command in (cli.gateway, cli.gateway_worker):
        read = [option for option in command.params if option.envvar]
        assert read and all(option.show_envvar for option in read)
    assert "[jobs|depthflow]" in cli.gateway_worker.get_help(cli.gateway_worker.make_context("gateway-worker", []))
