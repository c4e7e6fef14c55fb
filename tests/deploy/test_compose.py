"""docker-compose.yml: the specification's schema, and all that it names is there."""

from __future__ import annotations

import asyncio
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from fixtures.deploy import ROOT, composed, is_ours, stages, variables
from fixtures.proxies import PROXIES
from fixtures.stub import Answer, stub_server

from depthface_gateway.context import Context
from depthface_gateway.contracts import JOB_NAMES, contract_named
from depthface_gateway.settings import Settings
from depthface_gateway.triton import Triton

SERVICES = composed()["services"]
GATEWAYS = {"immich": 3003, "immichvr": 5000, "faces": 8000, "jobs": 8001, "depthflow": 8080, "page": 8090}
OURS = {name: service for name, service in SERVICES.items() if "build" in service}

OF_OPTIONS = {"immich": {"DEPTHFACE_GATEWAY_UPSTREAM"}, **{name: {"DATABASE_URL"} for name in JOB_NAMES}}
"""Variables that the command reads for a contract, beside its own."""

OF_ALL = {"DEPTHFACE_ADMIN_KEY", "IMMICH_LOG_LEVEL", "LOG_LEVEL"}
"""Those that the client and the command read for whoever runs."""

OF_THE_CONTAINER = {"CUDA_VISIBLE_DEVICES", "PUBLIC_KEY_PATH", "STORAGE_DIR"}
"""What the image and its volume decide."""

OF_JOBS_ALONE = {
    "AUTH_DISABLED",
    "DEPTHFACE_GATEWAY_EMBEDDING_MODEL",
    "DEPTHFACE_GATEWAY_FACE_MODEL",
    "DEPTHFACE_GATEWAY_WORKER_CONCURRENCY",
    "MEDIA_STORE_STUB",
    "MEDIA_STORE_URL",
}
"""`depthflow` reads them with the others, and they change nothing there."""


class Noting(dict[str, str]):
    """An environment that notes which variables are looked for."""

    def __init__(self, **told: str) -> None:
        super().__init__(told)
        self.asked: set[str] = set()

    def get(self, name, default=None):
        self.asked.add(name)
        return super().get(name, default)


async def read_by(name: str, data: Path) -> set[str]:
    """The variables that a contract looks for between its start and its end, where no Triton answers."""
    environment = Noting(AUTH_DISABLED="1", DEPTHFACE_GATEWAY_WORKER_GRACE_S="0")
    settings = Settings.of(environment)
    triton, database = Triton(["127.0.0.1:1"], settings), f"sqlite:///{data}/jobs.sqlite3"
    app = contract_named(name).app(Context(triton, settings, environment, data, database))
    async with app.router.lifespan_context(app):
        pass
    return environment.asked


def validate(path: Path) -> subprocess.CompletedProcess[str]:
    """Against the Compose Specification's JSON schema, as check-jsonschema carries it."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", path]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_no_log_of_what_runs_for_ever_grows_for_ever():
    staying = {name: service for name, service in SERVICES.items() if service.get("restart") == "unless-stopped"}
    assert {"triton", "triton-cpu", "prometheus", "grafana", *GATEWAYS} == staying.keys()
    for name, service in staying.items():
        assert {"max-size", "max-file"} <= service["logging"]["options"].keys(), name


def mounts(service: dict) -> dict[str, tuple[str, str]]:
    """Target to source and mode."""
    parts = (volume.split(":") for volume in service.get("volumes", []))
    return {target: (source, *mode, "rw")[:2] for source, target, *mode in parts}


def test_it_keeps_to_the_specification(tmp_path):
    done = validate(ROOT / "docker-compose.yml")
    assert done.returncode == 0, done.stdout
    filled_in = tmp_path / "compose.yml"
    filled_in.write_text(yaml.safe_dump(composed()))
    assert validate(filled_in).returncode == 0


def test_the_schema_would_say_otherwise(tmp_path):
    spoilt = composed()
    spoilt["services"]["triton"]["shm_sice"] = "2g"
    (tmp_path / "compose.yml").write_text(yaml.safe_dump(spoilt))
    assert "shm_sice" in validate(tmp_path / "compose.yml").stdout


def test_the_services_are_those_that_are_promised():
    assert set(SERVICES) == {
        *("triton", "triton-cpu", "export", "export-cpu", "bench", "prometheus", "grafana"),
        *GATEWAYS,
    }
    assert all(service["profiles"] for service in SERVICES.values())  # nothing starts that nobody asked for
    assert {name for name, service in SERVICES.items() if service["profiles"] == ["monitoring"]} == {
        "prometheus",
        "grafana",
    }


@pytest.mark.parametrize("name", ["triton", "triton-cpu"])
def test_a_server_is_shut_in(name):
    service = SERVICES[name]
    assert mounts(service)["/models"] == ("./model_repository", "ro")
    assert service["read_only"]
    assert service["shm_size"] == "2g"
    assert service["ulimits"]["nofile"] >= 65536
    assert service["restart"] == "unless-stopped"
    assert stages()[service["build"]["target"]].health_check == ["depthface", "health"]


def test_gpus_are_for_those_that_say_so():
    assert {name for name, service in SERVICES.items() if "deploy" in service} == {"triton", "export"}


def test_ports_are_on_loopback():
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 8 + len(GATEWAYS)
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_no_two_services_want_the_same_port():
    """Of `triton` and `triton-cpu` one runs."""
    wanted = [
        port.split(":")[1]
        for name, service in SERVICES.items()
        if name != "triton-cpu"
        for port in service.get("ports", [])
    ]
    assert len(wanted) == len(set(wanted))


def test_images_are_pinned():
    tag = composed()["services"]["triton"]["build"]["args"]["TRITON_TAG"]
    for service in SERVICES.values():
        assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+[\w.-]*", service["image"])
        if "triton" in service["image"] or "build" in service:
            assert tag in service["image"]
    bases = {stage.base for stage in stages().values() if ":" in stage.base}
    assert bases == {f"nvcr.io/nvidia/tritonserver:{tag}-py3", "python:3.12-slim-bookworm"}


@pytest.mark.parametrize("name", OURS)
def test_what_is_built_is_in_the_dockerfile(name):
    build = OURS[name]["build"]
    target = stages()[build["target"]]
    assert (ROOT / build["context"] / "Dockerfile").is_file()
    assert is_ours(target.command)
    assert f"ARG {next(iter(build['args']))}=" in (ROOT / "Dockerfile").read_text()
    exposed = " ".join(target.values("EXPOSE")).split()
    ports = [port.rpartition(":")[2] for port in OURS[name].get("ports", [])]
    assert ports == ([str(GATEWAYS[name])] if name in GATEWAYS else exposed)
    assert set(ports) <= set(exposed)


@pytest.mark.parametrize(("name", "port"), GATEWAYS.items())
def test_a_gateway_is_shut_in_and_asked_whether_it_lives(name, port):
    service = SERVICES[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    target = stages()[service["build"]["target"]]
    assert target.values("USER") == ["1000:1000"]
    assert target.entry_point == ["depthface", "gateway"]
    assert is_ours([*target.entry_point, *service["command"]])
    assert service["command"][0] == name == importlib.import_module(f"depthface_gateway.{name}").NAME
    assert port == importlib.import_module(f"depthface_gateway.{name}").DEFAULT_PORT
    assert f"http://127.0.0.1:{port}/" in service["healthcheck"]["test"][-1]
    url = service["command"][service["command"].index("--url") + 1]
    assert url.partition(":")[0] in SERVICES["triton"]["networks"]["default"]["aliases"]


@pytest.mark.parametrize("status", [200, 503])
@pytest.mark.parametrize("name", GATEWAYS)
def test_a_health_check_asks_the_gateway_itself_and_no_proxy(name, status):
    """Docker hands its own proxy variables to every container."""
    *_, option, code = SERVICES[name]["healthcheck"]["test"]
    dead = dict.fromkeys(PROXIES, "http://127.0.0.1:1") | {"no_proxy": "", "NO_PROXY": ""}
    with stub_server(lambda path: Answer(status)) as stub:
        here = code.replace(f"127.0.0.1:{GATEWAYS[name]}", stub.host)
        done = subprocess.run([sys.executable, option, here], env=os.environ | dead, capture_output=True, check=False)
    assert stub.asked
    assert (done.returncode == 0) == (status == 200), done.stderr


@pytest.mark.parametrize("name", GATEWAYS)
def test_every_variable_that_a_gateway_reads_reaches_it_and_no_other(name, tmp_path):
    wanted = asyncio.run(read_by(name, tmp_path)) | OF_OPTIONS.get(name, set())
    wanted -= OF_THE_CONTAINER | (OF_JOBS_ALONE if name == "depthflow" else set())
    assert set(SERVICES[name]["environment"]) - OF_ALL == wanted


def test_jobs_are_done_in_the_same_container_whatever_the_database():
    assert {name for name in GATEWAYS if "--with-worker" in SERVICES[name]["command"]} == set(JOB_NAMES)


def test_every_path_that_is_mounted_exists():
    sources = [(source, target) for service in SERVICES.values() for target, (source, _) in mounts(service).items()]
    for source, _ in sources:
        if source.startswith("."):
            assert (ROOT / source).exists(), source
        else:
            assert source in composed()["volumes"]
    for word in SERVICES["bench"]["entrypoint"]:
        if word.startswith("/"):
            assert word in mounts(SERVICES["bench"])


def test_the_example_of_the_settings_is_whole():
    lines = (ROOT / ".env.example").read_text().splitlines()
    settings = dict(line.removeprefix("#").split("=", 1) for line in lines if re.match(r"#?[A-Z_]+=", line))
    assert settings == {name: default or "" for name, default in variables().items()}


def test_secrets_are_not_in_any_file_that_git_keeps():
    assert {name for name, default in variables().items() if default is None} >= {
        "DEPTHFACE_ADMIN_KEY",
        "GRAFANA_PASSWORD",
    }
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()
