"""`depthface serve` in the environments that users have: each serves the same answers, or says at once what is wrong.

This is the table; a row is an environment with its result.
"""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from fixtures.photos import VARIETY
from fixtures.ports import free_ports
from fixtures.proxies import PROXIES
from fixtures.serving import COMMAND, ENDS_WITHIN_S, in_this_process, serving
from fixtures.waiting import HANGS_AFTER_S, until

MODEL = "depth_anything_v2_small"
ODD = "a b'c\"$HOME;`x`&ö日\n(1)"
"""What a shell, a search path and an interpreter in ASCII each read otherwise."""

SCRIPT = (str(Path(sys.executable).with_name("depthface")),)
"""The command as it is installed; `python -m` itself puts the working folder before everything else."""


@dataclass
class Case:
    """How the command is run.

    Attributes:
        says: what the one sentence holds in which it refuses; empty where it serves.
        unused: a file that must not come into being: foreign code was run, or a proxy was asked.
    """

    repository: Path
    options: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    cwd: Path | None = None
    command: tuple[str, ...] = SCRIPT
    prefix: tuple[str, ...] = ()
    says: str = ""
    unused: Path | None = None


def foreign(folder: Path, evidence: Path, *modules: str) -> None:
    """Write modules that leave evidence where they are run, and are of no use to anybody."""
    folder.mkdir(parents=True, exist_ok=True)
    for module in modules:
        path = folder / module
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"open({str(evidence)!r}, 'w').close()\nraise ImportError('a foreign module')\n")


def foreign_working_folder(repository: Path, folder: Path) -> Case:
    modules = ("numpy.py", "cv2.py", "model.py", "json.py", "onnxruntime.py", "openvino.py", "depthface/__init__.py")
    foreign(folder / "work", folder / "run", *modules)
    (folder / "work" / "models").symlink_to(repository)
    return Case(Path("models"), cwd=folder / "work", variables={"XDG_CACHE_HOME": "cache"}, unused=folder / "run")


def foreign_python_path(repository: Path, folder: Path) -> Case:
    foreign(folder / "path", folder / "run", "cv2.py", "onnxruntime.py", "openvino.py", "simplejpeg.py")
    return Case(repository, variables={"PYTHONPATH": str(folder / "path")}, unused=folder / "run")


def odd_repository(repository: Path, folder: Path) -> Case:
    copy = shutil.copytree(repository, folder / ODD / "models", copy_function=os.link)
    return Case(copy, variables={"LC_ALL": "C"})


def odd_queues(repository: Path, folder: Path) -> Case:
    copy = shutil.copytree(repository, folder / ODD / "models", copy_function=os.link)
    return Case(copy, options=("--queue-size", "3"))


def odd_home(repository: Path, folder: Path) -> Case:
    (folder / ODD).mkdir()
    return Case(repository, variables={"HOME": str(folder / ODD)}, without=("XDG_CACHE_HOME",), cwd=folder / ODD)


def odd_cache_and_temporary_folder(repository: Path, folder: Path) -> Case:
    (folder / ODD).mkdir()
    return Case(repository, variables={"XDG_CACHE_HOME": str(folder / ODD), "TMPDIR": str(folder / ODD)})


def odd_environment(repository: Path, folder: Path) -> Case:
    """Python's own environment under another name."""
    (folder / ODD).symlink_to(sys.prefix)
    return Case(repository, command=(str(folder / ODD / "bin" / "python3"), "-m", "depthface"), cwd=folder)


def dead_proxy(repository: Path, folder: Path) -> Case:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    return Case(repository, variables=dict.fromkeys(PROXIES, url) | {"no_proxy": "127.0.0.0/8, localhost"})


def by_name(repository: Path, folder: Path) -> Case:
    return Case(repository, options=("--host", "localhost"))


def by_host_name(repository: Path, folder: Path) -> Case:
    try:
        socket.getaddrinfo(socket.gethostname(), None)
    except OSError:
        pytest.skip("this machine cannot resolve its own name")
    return Case(repository, options=("--host", socket.gethostname()))


def by_ipv6(repository: Path, folder: Path) -> Case:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    return Case(repository, options=("--host", "::1"))


def an_unknown_host(repository: Path, folder: Path) -> Case:
    return Case(repository, options=("--host", "no-such-host.invalid"), says="There is no host")


def another_machines_address(repository: Path, folder: Path) -> Case:
    return Case(repository, options=("--host", "192.0.2.1"), says="no address of this machine")


def a_broadcast_address(repository: Path, folder: Path) -> Case:
    return Case(repository, options=("--host", "255.255.255.255"), says="no address that a server can be reached at")


def no_home(repository: Path, folder: Path) -> Case:
    says = "/dev/null/.cache/depthface"
    return Case(repository, variables={"HOME": "/dev/null"}, without=("XDG_CACHE_HOME",), says=says)


def unwritable_cache(repository: Path, folder: Path) -> Case:
    """/proc holds no folder of anybody's, root's neither."""
    return Case(repository, variables={"XDG_CACHE_HOME": "/proc/self"}, says="/proc/self/depthface")


def full_cache(repository: Path, folder: Path) -> Case:
    (folder / "full").mkdir()
    script = f'mount -t tmpfs -o size=32k tmpfs {folder}/full && exec "$@"'
    prefix = ("unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh")
    if not shutil.which("unshare") or subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a disk of his own")
    return Case(
        repository, prefix=prefix, variables={"XDG_CACHE_HOME": f"{folder}/full"}, says=f"{folder}/full/depthface"
    )


CASES: tuple[Callable[[Path, Path], Case], ...] = (
    foreign_working_folder,
    foreign_python_path,
    odd_repository,
    odd_queues,
    odd_home,
    odd_cache_and_temporary_folder,
    odd_environment,
    dead_proxy,
    by_name,
    by_host_name,
    by_ipv6,
    an_unknown_host,
    another_machines_address,
    a_broadcast_address,
    no_home,
    unwritable_cache,
    full_cache,
)


def infer(host: str, photo: bytes) -> tuple[int, bytes]:
    """Send a photo as curl does, by whatever name the server gives itself."""
    connection = http.client.HTTPConnection(host, timeout=120)
    try:
        connection.request("POST", f"/v2/models/{MODEL}/infer", photo, {"Inference-Header-Content-Length": "0"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def picture(answer: bytes) -> bytes:
    """What follows the header of JSON, which has the server's own id in it."""
    return answer[answer.index(b"\x89PNG") :]


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_it_serves_or_says_at_once_why_not(make, repository, server, tmp_path, monkeypatch):
    case = make(repository, tmp_path)
    for name in case.without:
        monkeypatch.delenv(name, raising=False)
    if case.says:
        refuses(case)
    else:
        place = {"prefix": case.prefix, "command": case.command, "cwd": case.cwd}
        with serving(case.repository, *case.options, **place, **case.variables) as served:
            photo = VARIETY["tiny 40×30"]
            status, answer = infer(served.host, photo)
            assert (status, picture(answer)) == (200, picture(infer(server.host, photo)[1]))
            if case.unused:  # foreign code is to be looked for when all is over; the others end behind (`serving`)
                assert served.stop() < ENDS_WITHIN_S
                assert served.process.returncode == 0
    assert case.unused is None or not case.unused.exists()


def refuses(case: Case) -> None:
    """One sentence with a remedy, soon, and exit 1."""
    ports = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")
    done = subprocess.run(
        [*case.prefix, *case.command, "serve", "--repository", str(case.repository), *case.options, *ports],
        env=os.environ | case.variables,
        cwd=case.cwd,
        capture_output=True,
        text=True,
        timeout=HANGS_AFTER_S / 2,  # half of what Triton would be given to start in
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("Error: ")
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert case.says in done.stderr
    assert "XDG_CACHE_HOME" in done.stderr or "--host" in done.stderr


@dataclass
class Proxy:
    """One that answers 200 to whatever comes, and notes it."""

    port: int
    seen: list[str]


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    seen: list[str] = []

    class Answering(BaseHTTPRequestHandler):
        def do(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            seen.append(f"{self.command} {self.path} {sorted(key.lower() for key in self.headers)}")
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"[]")

        do_GET = do_POST = do_CONNECT = do  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    behind = HTTPServer(("127.0.0.1", 0), Answering)
    threading.Thread(target=behind.serve_forever, args=(0.05,), daemon=True).start()
    yield Proxy(behind.server_port, seen)
    behind.shutdown()
    behind.server_close()


def test_a_proxy_is_asked_nothing_and_sees_no_key(repository, proxy):
    """From the start to the recovery of a model, and to the end."""
    variables = dict.fromkeys(PROXIES, f"http://127.0.0.1:{proxy.port}") | {"no_proxy": "", "NO_PROXY": ""}
    with serving(repository, **variables) as served:
        served.steps(MODEL)[0].kill()
        until(lambda: any("serves again" in line for line in served.lines), "the recovery")
        assert infer(served.host, VARIETY["tiny 40×30"])[0] == 200
        served.stop()
    assert proxy.seen == []


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--http-port", "65536"),
        ("--grpc-port", "-1"),
        ("--metrics-port", "99999999999999999999"),
        ("--max-mib", "nan"),
        ("--max-mib", "inf"),
        ("--max-mib", "0"),
        ("--max-megapixels", "NaN"),
        ("--max-megapixels", "-inf"),
        ("--max-faces", "0"),
        ("--queue-size", "-1"),
        ("--queue-size", "4294967296"),
        ("--queue-seconds", "nan"),
        ("--queue-seconds", "inf"),
        ("--queue-seconds", "1e300"),
        ("--load-threads", "0"),
        ("--load-threads", "1000000"),
        ("--idle-minutes", "nan"),
        ("--idle-minutes", "Infinity"),
        ("--idle-minutes", "-1"),
    ],
)
def test_a_number_out_of_range_is_refused_by_its_option(option, value, tmp_path):
    done = in_this_process("serve", "--repository", tmp_path, option, value)
    assert done.returncode == 2
    assert f"Invalid value for '{option}'" in done.stderr


def test_one_port_given_twice_is_refused(repository):
    (port,) = map(str, free_ports(1))
    done = subprocess.run(
        [*COMMAND, "serve", "--repository", str(repository), "--http-port", port, "--grpc-port", port],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, f"Port {port} is given to http and to grpc" in done.stderr) == (1, True)
