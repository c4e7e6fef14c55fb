"""Killed, restarted, overloaded, short of memory, told to stop: each time a clear error, and afterwards as before."""

from __future__ import annotations

import http.client
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from fixtures import impatient
from fixtures.photos import VARIETY, encoded, photo
from fixtures.processes import ended, kill
from fixtures.serving import COMMAND, ENDS_WITHIN_S, Server, serving
from fixtures.shared import copied
from fixtures.waiting import HANGS_AFTER_S, until
from fuzz.over_http import ENDING
from PIL import Image

from depthface import cache
from depthface_client import (
    AsyncClient,
    Client,
    ClientError,
    InvalidInput,
    NotAllowed,
    ServerFault,
    ServerUnavailable,
)
from depthface_server.address import Address

MODEL = "depth_anything_v2_small"
GOOD = VARIETY["tiny 40×30"]


class Load:
    """Clients that ask without a pause until the block ends; what came of each request."""

    def __init__(self, ask: Callable[[], object], clients: int) -> None:
        self.outcomes: list[tuple[str, float, float]] = []
        self._ask = ask
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def _run(self) -> None:
        while not self._stop.is_set():
            started = time.monotonic()
            try:
                self._ask()
                outcome = "answered"
            except Exception as error:
                outcome = type(error).__name__
            self.outcomes.append((outcome, started, time.monotonic()))
            if outcome != "answered":
                time.sleep(0.05)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(HANGS_AFTER_S)
        assert not any(thread.is_alive() for thread in self._threads)

    def seconds(self, outcome: str) -> list[float]:
        return sorted(ended - started for name, started, ended in self.outcomes if name == outcome)

    def most_answered_meanwhile(self) -> int:
        """How many others were answered, at the most, while one that was answered waited."""
        spans = [(started, ended) for name, started, ended in self.outcomes if name == "answered"]
        return max(sum(started < end < ended for _, end in spans) for started, ended in spans)

    def kinds(self) -> set[str]:
        return {name for name, *_ in self.outcomes}


def answers_again(client: Client, expected: bytes) -> None:
    def answers() -> bool:
        try:
            assert client.depth_png(GOOD) == expected
        except ClientError:
            return False
        return True

    until(answers, "a good answer")


def test_one_dead_process_of_several_is_noticed_without_load(repository):
    """The others go on answering, so most requests would never tell."""
    with serving(repository) as server:
        first, *others = server.steps(MODEL)
        assert others
        first.kill()
        wait_for_line(server, f"{MODEL}: serves again")
        # Those of before have ten seconds to finish.
        until(lambda: len(server.steps(MODEL)) == 1 + len(others), "the end of those of before")


def test_a_step_killed_again_and_again_under_load_comes_back_each_time(repository):
    """The pipeline's process twice, and the network's."""
    network = f"{MODEL}_network"
    with serving(repository, command=impatient.COMMAND) as server, Client(server.host, timeout_s=150) as client:
        expected = client.depth_png(GOOD)
        with Load(lambda: client.depth_png(GOOD), 3) as load:
            for step, times in ((MODEL, 1), (network, 1), (MODEL, 2)):
                newest = max(server.steps(step), key=psutil.Process.create_time)  # older ones may still be leaving
                kill([newest])
                wait_for_line(server, f"{step}: serves again", times)
                answers_again(client, expected)
        answers_again(client, expected)
        assert load.kinds() <= {"answered", "ServerFault", "ModelUnavailable"}
        assert {"answered", "ServerFault"} <= load.kinds()
        metrics = server.metrics()
        assert metrics[f'depthface_recoveries{{model="{MODEL}"}}'] == 2
        assert metrics[f'depthface_recoveries{{model="{network}"}}'] == 1


def test_a_server_that_comes_back_is_found_again_by_the_same_client(repository):
    """Killed, not ended; then a new one at the same port, with a key of its own. A client that retries sees nothing."""
    port = Address.free("127.0.0.1", 0, 0, 0).http_port
    with Client(f"127.0.0.1:{port}") as client, Client(f"127.0.0.1:{port}", retries=200) as patient:
        with serving(repository, http_port=port) as server:
            expected = client.depth_png(GOOD)
            assert patient.depth_png(GOOD) == expected
            triton = server.triton
            server.process.kill()
            assert ended([triton])
        with pytest.raises(ServerUnavailable, match="depthface serve"):
            client.depth_png(GOOD)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(patient.depth_png, GOOD)
            with serving(repository, http_port=port, DEPTHFACE_ADMIN_KEY="the-key-of-the-operator") as server:
                assert waiting.result(HANGS_AFTER_S) == expected
                assert client.depth_png(GOOD) == expected
                with Client(server.host, admin_key="the-key-of-the-operator") as operator:
                    operator.load(MODEL)
                with Client(server.host, admin_key="another-key-0123456789") as stranger, pytest.raises(NotAllowed):
                    stranger.load(MODEL)


@pytest.mark.quiet
def test_overload_is_refused_at_once_and_what_is_accepted_is_answered(true_repository):
    """Far more clients than a queue of two holds; one that retries gets through, at the latest when the others have
    gone. `make overload` has figures.
    """
    with serving(true_repository, "--queue-size", "2") as server, Client(server.host, timeout_s=300) as client:
        with ThreadPoolExecutor(1) as pool, Client(server.host, retries=200) as patient:
            with Load(lambda: client.depth_png(GOOD), 12) as load:
                until(lambda: "ServerOverloaded" in load.kinds(), "a refusal")
                waiting = pool.submit(patient.depth_png, GOOD)
                until(lambda: len(load.seconds("answered")) > 10, "ten answers")
            assert waiting.result(HANGS_AFTER_S).startswith(b"\x89PNG")
        assert load.kinds() == {"answered", "ServerOverloaded"}
        refused, accepted = load.seconds("ServerOverloaded"), load.seconds("answered")
        assert len(refused) > len(accepted)
        # A refusal waits for no network: it comes long before an answer does.
        assert refused[len(refused) // 2] < accepted[len(accepted) // 2] / 2
        # Behind at most 3 queues of 2, a batch that runs and one that waits for it.
        assert load.most_answered_meanwhile() <= 20
        client.depth_png(GOOD)


def test_asyncio_retries_too(repository):
    import asyncio

    async def run(host: str) -> list[bytes]:
        async with AsyncClient(host, retries=200) as client:
            return await asyncio.gather(*(client.depth_png(GOOD) for _ in range(6)))

    with serving(repository, "--queue-size", "1") as server:
        assert len(set(asyncio.run(run(server.host)))) == 1
    with pytest.raises(InvalidInput, match="retries"):
        AsyncClient(retries=-1)


def send(server: Server, model: str, request: bytes) -> str:
    """Send a request as the fuzzer has it; the class of the error, or the status."""
    connection = http.client.HTTPConnection(server.host, timeout=HANGS_AFTER_S)
    length = request[:4].decode()
    headers = {} if length == "null" else {"Inference-Header-Content-Length": length}
    try:
        connection.request("POST", f"/v2/models/{model}/infer", request[4:], headers)
        return str(connection.getresponse().status)
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    finally:
        connection.close()


def wait_for_line(server: Server, text: str, times: int = 1) -> str:
    """The line that holds `text`, when it is said so many times."""

    def found() -> list[str]:
        return [line for line in server.lines if text in line]

    until(lambda: len(found()) >= times or server.process.poll() is not None, text)
    assert len(found()) >= times, "\n".join(server.lines)
    return found()[times - 1]


def test_a_triton_that_a_request_ends_comes_back_as_it_was(repository):
    """At the same ports, with the same answers; counted, its last words kept, what it died of said."""
    with serving(repository) as server, Client(server.host) as client:
        expected = client.depth_png(GOOD)
        log = f"triton-{server.host.replace(':', '-')}.log"
        for times, (model, body) in enumerate(ENDING.values(), start=1):
            first = server.triton
            assert send(server, model, body) in ("RemoteDisconnected", "ConnectionResetError", "500", "200")
            assert ended([first])
            cause = wait_for_line(server, "Triton was ended by SIG", times)
            assert f"{log}.1" in cause
            wait_for_line(server, "Triton serves again at", times)
            assert client.depth_png(GOOD) == expected
            assert server.metrics()[f'depthface_restarts{{model="{MODEL}"}}'] == times
        assert sum("ready: http" in line for line in server.lines) == 1
        assert (cache.folder() / "logs" / f"{log}.2").is_file()
        # A model's process that dies is found after a restart as before it.
        server.steps(MODEL)[0].kill()
        wait_for_line(server, f"{MODEL}: serves again")
        assert client.depth_png(GOOD) == expected


def test_a_model_that_was_taken_out_stays_out_when_triton_comes_back(repository):
    with serving(repository, command=impatient.COMMAND) as server, Client(server.host) as client:
        client.depth_png(GOOD)
        client.unload(MODEL)
        until(lambda: not server.steps(MODEL), "the end of its processes")
        time.sleep(impatient.HAS_LOOKED_S)
        server.triton.kill()
        wait_for_line(server, "Triton serves again at")
        assert "SIGKILL" in wait_for_line(server, "Triton was ended by")
        assert not server.steps(MODEL)


def test_a_model_that_cannot_be_loaded_when_triton_comes_back_is_tried_until_it_can_be(repository, tmp_path):
    """Also by the Triton after the next, which is to load it too."""
    own = copied(repository, to=tmp_path / "models")
    with serving(own, command=impatient.COMMAND) as server, Client(server.host) as client:
        expected = client.depth_png(GOOD)
        step = own / MODEL / "1" / "model.py"
        code = step.read_text()
        step.write_text("raise RuntimeError('it refuses')")
        for times in (1, 2):
            server.triton.kill()
            wait_for_line(server, "Triton serves again at", times)
            assert "it refuses" in wait_for_line(server, f"{MODEL}: could not be loaded again: ", times)
        step.write_text(code)
        answers_again(client, expected)


def test_a_triton_that_dies_for_ever_is_given_up(repository):
    """Six times within ten minutes: exit 1, and a sentence that says where its last words are."""
    with serving(repository, command=impatient.COMMAND) as server:
        for times in range(1, 7):
            server.triton.send_signal(signal.SIGSEGV)
            if times < 6:
                wait_for_line(server, "Triton serves again at", times)
        assert server.process.wait(HANGS_AFTER_S) == 1
        until(lambda: any(line.startswith("Error: ") for line in server.lines), "its last words")
        (last,) = [line for line in server.lines if line.startswith("Error: ")]
        assert "SIGSEGV" in last
        assert "6 times within 10 minutes" in last
        assert not list(Path("/dev/shm").glob(f"depthface_{server.process.pid}_*"))
        assert not list(Path("/tmp").glob(f"depthface_{server.process.pid}_*"))


def test_memory_comes_back_after_large_photos(repository):
    """Some seconds after the last of them every process of the model has, but for 48 MB, what it had before."""
    large = encoded(photo().resize((9000, 7000)), "JPEG")

    def own_bytes() -> dict[int, int]:
        return {process.pid: process.memory_full_info().uss for process in server.steps(MODEL)}

    with serving(repository) as server, Client(server.host, timeout_s=300) as client:
        for _ in range(4):
            client.depth_png(GOOD)
        time.sleep(5)
        before = own_bytes()
        peak = dict(before)
        with ThreadPoolExecutor(2) as pool:
            answers = [pool.submit(client.depth_png, large) for _ in range(4)]
            while not all(answer.done() for answer in answers):
                peak = {pid: max(peak[pid], size) for pid, size in own_bytes().items()}
                time.sleep(0.2)
        assert all(answer.result() for answer in answers)
        assert max(peak[pid] - before[pid] for pid in before) > 100e6  # or nothing is shown
        until(lambda: all(own_bytes()[pid] - before[pid] < 48e6 for pid in before), "the memory of the photos")


def small_shm(size: str) -> tuple[str, ...]:
    """A command that runs another with a /dev/shm of this size."""
    prefix = ("unshare", "--map-root-user", "--mount", "sh", "-c", f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"', "sh")  # fmt: skip  # noqa: E501
    if not shutil.which("unshare") or subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a /dev/shm of his own")
    return prefix


def test_a_photo_too_large_for_the_shared_memory_is_refused_and_the_next_one_served(repository):
    noise = np.random.default_rng(0).integers(0, 255, (2000, 4000, 3), np.uint8)
    with serving(repository, prefix=small_shm("16m")) as server, Client(server.host) as client:
        expected = client.depth_png(GOOD)
        for _ in range(3):
            with pytest.raises(ServerFault, match="--shm-size"):
                client.depth_png(encoded(Image.fromarray(noise), "PNG"))
        assert client.depth_png(GOOD) == expected


def test_a_shared_memory_too_small_to_start_in_is_one_line(repository):
    done = subprocess.run(
        [*small_shm("2m"), *serve_command(repository)],
        capture_output=True,
        text=True,
        timeout=HANGS_AFTER_S,
        check=False,
    )
    assert done.returncode == 1
    assert "--shm-size" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def serve_command(repository: Path) -> list[str]:
    ports = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")
    return [*COMMAND, "serve", "--repository", str(repository), *ports]


def test_sigterm_in_the_middle_of_everything(repository):
    """With requests in every queue and a step just killed: answers or errors, exit 0, and nothing left."""
    with serving(repository) as server, Client(server.host, timeout_s=150) as client:
        client.depth_png(GOOD)
        processes = server.family[1:]
        with Load(lambda: client.depth_png(GOOD), 8) as load:
            until(lambda: "answered" in load.kinds(), "an answer")
            kill(server.steps(MODEL))
            time.sleep(0.3)
            assert server.stop() < ENDS_WITHIN_S
            time.sleep(0.5)
        assert server.process.returncode == 0
        assert "answered" in load.kinds()
        assert load.kinds() <= {"answered", "ServerFault", "ServerUnavailable", "ModelUnavailable", "ServerOverloaded"}
        assert ended(processes)
        assert not list(Path("/dev/shm").glob(f"depthface_{server.process.pid}_*"))


def flood(server: Server, chunks: int) -> bytes:
    """Send a photo of so many bytes in chunks of one byte each; the answer's first line."""
    host, _, port = server.host.partition(":")
    with socket.create_connection((host, int(port)), timeout=HANGS_AFTER_S) as connection:
        connection.sendall(
            f"POST /v2/models/{MODEL}/infer HTTP/1.1\r\nHost: {server.host}\r\nInference-Header-Content-Length: 0\r\n"
            "Transfer-Encoding: chunked\r\n\r\n".encode()
        )
        connection.sendall(b"1\r\nx\r\n" * chunks + b"0\r\n\r\n")
        return connection.makefile("rb").readline()


def test_a_body_in_a_million_pieces_does_not_end_the_server(repository):
    """Triton lists the pieces on a thread's stack: with the usual 8 MiB this one request ends it."""
    with serving(repository) as server, Client(server.host) as client:
        assert b" 400 " in flood(server, 1_000_000)
        assert server.process.poll() is None
        assert client.depth_png(GOOD).startswith(b"\x89PNG")
