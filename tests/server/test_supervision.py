"""When a server that died is started again, and what is said of it; without one."""

from __future__ import annotations

import errno
import io
import itertools
import json
import logging
import os
import subprocess
import sys
import threading
from collections import Counter
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from fixtures.waiting import until

from depthface.errors import ServeError
from depthface_server import embedded, recoveries, supervisor
from depthface_server import log as logs
from depthface_server import watchdog as watchdog_module
from depthface_server.address import Address
from depthface_server.api import Api, ApiError
from depthface_server.deaths import WITHIN_S, Deaths, doubled
from depthface_server.log import KEPT, bounded, follow, keep, rendering
from depthface_server.supervisor import MOST_RESTARTS
from depthface_server.watchdog import Watchdog


def test_deaths_of_long_ago_do_not_count():
    deaths = Deaths()
    assert [deaths.add(float(index)) for index in range(5)] == [1, 2, 3, 4, 5]
    assert deaths.add(WITHIN_S + 3.5) == 2  # the last of the five is in the time still
    assert deaths.add(3 * WITHIN_S) == 1
    assert deaths.total == 7


def test_pauses_double():
    assert [doubled(0.5, times) for times in range(1, 6)] == [0.5, 1.0, 2.0, 4.0, 8.0]


class Dying:
    """A Triton that dies so many times, each time while it starts, and then serves."""

    address = Address("127.0.0.1", "127.0.0.1", 1, 2, 3)
    log = Path("/nowhere/triton-1.log")
    models = ("a", "b")

    def __init__(self, deaths: int) -> None:
        self.deaths = deaths
        self.started: list[tuple[tuple[str, ...], int]] = []

    def cause(self) -> str:
        return "was ended by SIGFPE (signal 8)"

    def restart(self, models: tuple[str, ...], restarts: int) -> None:
        self.started.append((models, restarts))

    def wait_until_live(self, stop: threading.Event) -> bool:
        if len(self.started) < self.deaths:
            raise ServeError("Triton was ended by SIGFPE (signal 8) while starting")
        return True

    def failures(self) -> dict[str, str]:
        return {"b": "its file is gone"}


def restart(triton: Dying) -> frozenset[str]:
    deaths = Deaths()
    while (failed := supervisor._restarted(triton, triton.models, deaths, threading.Event())) is None:
        pass
    return failed


@pytest.fixture
def short_pauses(monkeypatch):
    monkeypatch.setattr(supervisor, "_FIRST_PAUSE_S", 0.001)


def test_one_that_dies_while_it_starts_is_started_again(caplog, short_pauses):
    triton = Dying(3)
    with caplog.at_level(logging.INFO):
        assert restart(triton) == {"b"}
    assert triton.started == [(("a", "b"), 1), (("a", "b"), 2), (("a", "b"), 3)]
    assert "SIGFPE" in caplog.text
    assert "b: could not be loaded again: its file is gone" in caplog.text
    assert "serves again" in caplog.text


def test_one_that_dies_for_ever_is_given_up_by_number_time_and_cause(short_pauses):
    triton = Dying(100)
    with pytest.raises(ServeError, match=r"SIGFPE.*6 times within 10 minutes.*triton-1\.log") as caught:
        restart(triton)
    assert caught.value.remedy
    assert len(triton.started) == MOST_RESTARTS


@pytest.mark.parametrize(
    ("code", "text"),
    [("import os; os.kill(os.getpid(), 8)", "SIGFPE (signal 8)"), ("import sys; sys.exit(3)", "exit code 3"),
     ("import os; os.kill(os.getpid(), 9)", "SIGKILL (signal 9; the system does so too where memory runs out)")],
)  # fmt: skip
def test_what_it_died_of_is_named(code, text):
    triton = object.__new__(embedded.Triton)
    triton._process = subprocess.Popen([sys.executable, "-c", code])
    triton._process.wait()
    assert text in triton.cause()


def test_of_one_that_lives_it_is_said_that_it_does_not_answer():
    triton = object.__new__(embedded.Triton)
    triton._process = subprocess.Popen(["sleep", "60"])
    try:
        assert triton.cause() == "did not answer in time"
    finally:
        triton._process.kill()
        triton._process.wait()


def test_logs_of_earlier_runs_are_kept_in_a_bounded_number(tmp_path):
    log = tmp_path / "triton-1.log"
    for run in range(10):
        keep(log, log)
        log.write_text(str(run))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["triton-1.log", *(f"triton-1.log.{number}" for number in range(1, KEPT + 1))]
    assert [(tmp_path / name).read_text() for name in names] == ["9", "8", "7", "6", "5", "4"]


def test_a_log_is_followed_into_the_file_that_takes_its_place(tmp_path):
    said: list[str] = []
    log = tmp_path / "triton-1.log"
    log.write_text("first\n")
    with rendering(True, lambda text, **_: said.append(text)), follow(log):
        keep(log, log)
        log.write_text("second\nthird")
    assert [json.loads(line)["message"] for line in said] == ["first", "second", "third"]


class Index(Api):
    """A Triton of one model, whose answers a test chooses."""

    def __init__(self) -> None:
        super().__init__("127.0.0.1", 1, "key")
        self.error: ApiError | None = None
        self.calls: list[str] = []

    def ready(self) -> Counter[str]:
        if self.error:
            raise self.error
        return Counter({"m": 1})

    def load(self, model: str) -> None:
        self.calls.append(f"load {model}")

    def unload(self, model: str) -> None:
        self.calls.append(f"unload {model}")


def test_a_watchdog_that_may_not_watch_says_so(tmp_path, caplog):
    """A wrong key, say: a recovery that is switched off in silence is none."""
    api = Index()
    api.error = ApiError(403, "restricted")
    watchdog = Watchdog(api, tmp_path / "counts", dict, lambda _: 0, interval_s=0.01)
    with caplog.at_level(logging.INFO):
        watchdog.start()
        while "cannot be watched" not in caplog.text:
            watchdog._thread.join(0.01)
        api.error = None
        while "watched again" not in caplog.text:
            watchdog._thread.join(0.01)
    watchdog.stop()
    watchdog._thread.join(10)
    assert "restricted" in caplog.text
    assert watchdog.loaded == ("m",)


def test_a_watchdog_counts_processes_and_touches_no_model_without_any(tmp_path):
    """A network in Triton's own process has none, and is left alone."""
    api = Index()
    mine = os.getpid()
    living: dict[str, frozenset[int]] = {}
    watchdog = Watchdog(api, tmp_path / "counts", lambda: dict(living), lambda _: 0)
    watchdog._look()
    watchdog._look()
    assert api.calls == []
    watchdog = Watchdog(api, tmp_path / "counts", lambda: dict(living), lambda _: 2)
    living["m"] = frozenset({mine, mine + 1})
    watchdog._look()
    assert api.calls == []
    living["m"] = frozenset({mine})
    watchdog._end = lambda *_: None  # type: ignore[method-assign]
    watchdog._look()
    assert api.calls == ["unload m", "load m"]


def test_triton_is_asked_when_processes_have_changed_and_now_and_then(tmp_path, monkeypatch):
    """A server at rest computes less than it would if each look were a request."""
    api, now_s, asked = Index(), 0.0, []
    living = {"m": frozenset({1})}
    monkeypatch.setattr(watchdog_module, "time", SimpleNamespace(monotonic=lambda: now_s))
    monkeypatch.setattr(api, "ready", lambda: asked.append(now_s) or Counter({"m": 1}))
    watchdog = Watchdog(api, tmp_path / "counts", lambda: dict(living), lambda _: 1)
    for now_s in range(0, 30, 2):
        if now_s == 14:
            living["m"] = frozenset({2})
        watchdog._look()
    assert asked == [0, 10, 14, 24]


@pytest.mark.parametrize("comes_back", [False, True])
def test_a_model_that_is_taken_out_while_we_look_is_left_alone(tmp_path, monkeypatch, comes_back):
    """Its processes have ended, and Triton answers as it was the moment before; loaded anew, it has others."""
    api = Index()
    answers = iter([Counter({"m": 1}), Counter({"m": 1} if comes_back else {})])
    living = iter([{}, {"m": frozenset({2})} if comes_back else {}])
    monkeypatch.setattr(api, "ready", lambda: next(answers))
    watchdog = Watchdog(api, tmp_path / "counts", lambda: next(living), lambda _: 1)
    watchdog._look()
    assert next(living, None) is None
    assert api.calls == []


def test_a_model_that_dies_at_every_start_is_started_again_more_and_more_slowly(tmp_path, caplog, monkeypatch):
    """At once, after 2 s, 4, 8, … and at last every minute; each time is said and counted."""
    api, now_s, started = Index(), 0.0, []
    monkeypatch.setattr(watchdog_module, "time", SimpleNamespace(monotonic=lambda: now_s))
    api.load = lambda _: started.append(now_s)  # type: ignore[method-assign]
    watchdog = Watchdog(api, tmp_path / "counts", dict, lambda _: 1)
    for now_s in range(0, 3600, 2):  # noqa: B007, the clock reads it
        watchdog._look()
    assert started[:7] == [0, 4, 10, 20, 38, 72, 134]  # each found dead at the look after it was started
    assert {after - before for before, after in itertools.pairwise(started[6:])} == {62}
    assert recoveries.read(tmp_path / "counts") == {"m": len(started)}
    assert "m: died, or could not be started, 3 times within 10 minutes; starting it again in 4 s" in caplog.text
    assert caplog.text.count("starting it again in 60 s") >= len(started) - 7


def test_a_model_is_started_again_where_there_is_no_room_to_count_it(tmp_path, caplog, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    api = Index()
    monkeypatch.setattr(Path, "replace", full)
    watchdog = Watchdog(api, tmp_path / "counts", dict, lambda _: 1)
    watchdog._look()
    assert api.calls == ["unload m", "load m"]
    assert "that is not counted" in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_model_is_started_again_where_nobody_takes_what_is_said(tmp_path):
    """As in a terminal that was closed, or before a `tee` that has ended."""
    stream = io.StringIO()
    stream.close()
    api = Index()
    with rendering(False, partial(click.secho, file=stream)):
        Watchdog(api, tmp_path / "counts", dict, lambda _: 1)._look()
    assert api.calls == ["unload m", "load m"]


def test_a_model_that_has_lived_long_is_started_again_at_once(tmp_path, monkeypatch):
    api, now_s, started = Index(), 0.0, []
    dies_at_s = {100, 102, 102 + WITHIN_S + 50}
    monkeypatch.setattr(watchdog_module, "time", SimpleNamespace(monotonic=lambda: now_s))
    api.load = lambda _: started.append(now_s)  # type: ignore[method-assign]
    watchdog = Watchdog(api, tmp_path / "counts", lambda: {} if now_s in dies_at_s else {"m": {1}}, lambda _: 1)
    for now_s in range(0, 1000, 2):  # noqa: B007, the clock reads it
        watchdog._look()
    assert started == [100, 102 + WITHIN_S + 50]


def test_a_server_is_waited_for_in_its_sleep_and_its_orphans_are_buried():
    """In a process of its own: it is every child's end that is waited for."""
    code = """
import os, subprocess, sys, time
from depthface_server.embedded import Triton
triton = object.__new__(Triton)
triton._process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.5)"])
orphan = os.posix_spawn("/bin/true", ["true"], {})
triton.wait()
assert triton._process.poll() == 0
try:
    os.waitpid(orphan, os.WNOHANG)
except ChildProcessError:
    print("buried")
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "buried\n"


@pytest.mark.parametrize(
    ("host", "ip", "url", "argument"),
    [
        ("127.0.0.1", "127.0.0.1", "http://127.0.0.1:", "--http-address=127.0.0.1"),
        ("localhost", "127.0.0.1", "http://localhost:", "--metrics-address=127.0.0.1"),
        ("[::1]", "::1", "http://[::1]:", "--http-address=ipv6:::1"),
        ("::", "::", "http://[::]:", "--grpc-address=[::]"),
        ("0", "0.0.0.0", "http://0:", "--grpc-address=0.0.0.0"),
    ],
)
def test_a_host_as_triton_takes_it(host, ip, url, argument):
    if ":" in host and not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine has no IPv6")
    address = Address.free(host, 0, 0, 0)
    assert address.ip == ip
    assert address.url.startswith(url)
    assert argument in address.arguments()
    assert len({address.http_port, address.grpc_port, address.metrics_port}) == 3


@pytest.mark.parametrize(
    "host", ["", "[]", "a b", "http://localhost", "127.0.0.1:8000", "x" * 300, "fe80::1", "224.0.0.1"]
)
def test_a_host_that_is_none_is_refused(host):
    with pytest.raises(ServeError, match="--host"):
        Address.free(host, 0, 0, 0)


def test_a_log_is_begun_anew_when_it_is_long(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "_MOST_BYTES", 1000)
    monkeypatch.setattr(logs, "_BOUND_EVERY_S", 0.05)
    log = tmp_path / "triton-1.log"
    with log.open("ab", buffering=0) as writer, bounded(log):
        writer.write(b"x" * 1001)
        until(lambda: log.stat().st_size == 0)
        writer.write(b"after\n")
    assert (tmp_path / "triton-1.log.1").read_bytes() == b"x" * 1000
    assert log.read_bytes() == b"after\n"


def test_a_log_that_is_begun_anew_is_followed(tmp_path):
    said: list[str] = []
    log = tmp_path / "triton-1.log"
    writer = log.open("ab", buffering=0)
    with writer, rendering(True, lambda text, **_: said.append(text)), follow(log):
        for word in ("a long line", "short"):
            writer.write(f"{word}\n".encode())
            until(lambda word=word: any(word in line for line in said))
            logs._begin_anew(log)
    assert [json.loads(line)["message"] for line in said] == ["a long line", "short"]


def test_what_was_half_a_line_when_its_log_was_begun_anew_is_one_of_its_own(tmp_path):
    said: list[str] = []
    log = tmp_path / "triton-1.log"
    with log.open("ab", buffering=0) as writer, rendering(True, lambda text, **_: said.append(text)), follow(log):
        writer.write(b"a line\nhalf of the ne")
        until(lambda: said)
        logs._begin_anew(log)
        writer.write(b"after\n")
    assert [json.loads(line)["message"] for line in said] == ["a line", "half of the ne", "after"]


def test_of_a_log_that_grew_far_the_beginning_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "_MOST_BYTES", 1000)
    log = tmp_path / "triton-1.log"
    log.write_bytes(b"what went wrong\n" + b"x" * 5000)
    logs._begin_anew(log)
    assert (tmp_path / "triton-1.log.1").read_bytes() == b"what went wrong\n" + b"x" * 984


def test_a_line_that_is_repeated_at_once_is_said_once(tmp_path):
    """Where a library fails in a loop, it writes some 200,000 lines a second."""
    said: list[str] = []
    log = tmp_path / "triton-1.log"
    log.write_text("first\n" + "[warn] Error from accept() call\n" * 10_000 + "last\n")
    with rendering(True, lambda text, **_: said.append(text)), follow(log):
        pass
    found = [(line["message"], line.get("times")) for line in map(json.loads, said)]
    assert found == [("first", None), ("[warn] Error from accept() call", 10_000), ("last", None)]


def test_a_long_log_goes_where_there_is_no_room_for_a_copy(tmp_path):
    log = tmp_path / "triton-1.log"
    log.write_text("long")
    (tmp_path / "triton-1.log.copy").symlink_to("/dev/full")
    logs._begin_anew(log)
    assert [path.name for path in tmp_path.iterdir()] == ["triton-1.log"]
    assert log.read_text() == ""
