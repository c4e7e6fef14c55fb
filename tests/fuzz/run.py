"""`make fuzz`: one target for so many seconds, in a process of its own that may not grow over 2 GB nor hang.

    python tests/fuzz/run.py image --seconds 600

An input that is a finding is kept in tests/fuzz/seeds/<target>/, where `make test` tries it for ever after.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import hashlib
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fixtures.processes import command_line, family, memory_bytes
from fixtures.serving import serving
from fuzz.over_http import MODEL
from fuzz.targets import TARGETS
from hypothesis import HealthCheck, Phase, given, seed, settings

SEEDS = Path(__file__).parent / "seeds"
MAX_BYTES = 2 * 10**9
HANG_S = 120.0
"""One input that takes longer hangs; on a busy machine a good one may take seconds."""

BATCH = 100


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--host", default="", help="of a server that runs, for the targets http and parameters")
    parser.add_argument("--pid", type=int, default=0, help="its process, whose memory is measured")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    os.environ.setdefault("ORT_LOGGING_LEVEL", "4")
    with _server(arguments.target, arguments.host, arguments.pid) as (host, pid):
        before = _server_ids(pid)
        count, peak_bytes = _fuzz(arguments.target, host, pid, arguments.seconds, arguments.seed)
        assert _server_ids(pid) == before, "a process of the server died"
    print(f"{arguments.target}: {count} inputs, nothing found; at most {peak_bytes / 1e6:.0f} MB")


def _fuzz(name: str, host: str, pid: int, seconds: float, first_seed: int) -> tuple[int, int]:
    target = TARGETS[name]()
    count, peak_bytes = 0, 0
    deadline = time.monotonic() + seconds

    def check(data: bytes) -> None:
        nonlocal count
        count += 1
        faulthandler.dump_traceback_later(HANG_S, exit=True)
        try:
            target.check(data, host)
        except BaseException:
            _keep(name, data)
            raise
        finally:
            faulthandler.cancel_dump_traceback_later()

    # A crash of the process leaves its input here.
    last = SEEDS / f"{name}.last"

    def guarded(data: bytes) -> None:
        if time.monotonic() < deadline:
            last.write_bytes(data)
            check(data)

    for path in sorted((SEEDS / name).glob("*")):
        check(path.read_bytes())
    number = first_seed
    while time.monotonic() < deadline:
        number += 1
        # Shrinking runs a crash many times over, and the input as found is kept anyway.
        limits = settings(
            max_examples=BATCH,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        seed(number)(limits(given(target.inputs)(guarded)))()
        peak_bytes = max(peak_bytes, _memory(pid))
        assert peak_bytes < MAX_BYTES, f"{peak_bytes / 1e9:.1f} GB"
    last.unlink(missing_ok=True)
    return count, peak_bytes


def _keep(name: str, data: bytes) -> None:
    folder = SEEDS / name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / hashlib.sha256(data).hexdigest()[:16]
    path.write_bytes(data)
    print(f"kept {path}", file=sys.stderr)


@contextlib.contextmanager
def _server(target: str, host: str, pid: int) -> Iterator[tuple[str, int]]:
    """The server that is given; one of one's own for requests without; none for the rest."""
    if target not in ("http", "parameters") or host:
        yield host, pid
        return
    import tempfile

    from fixtures.serving import depthface

    with tempfile.TemporaryDirectory() as folder:
        done = depthface("export", MODEL, "--weights", "random", "--repository", folder)
        assert done.returncode == 0, done.stderr
        with serving(Path(folder)) as server:
            yield server.host, server.process.pid
            server.stop()


def _server_ids(pid: int) -> set[int]:
    """Of Triton and its steps; a step's own process for HEIC comes and goes."""
    programs = {child.pid: "".join(command_line(child)[:1]) for child in family(pid)[1:]} if pid else {}
    return {pid for pid, program in programs.items() if program.endswith(("tritonserver", "_stub"))}


def _memory(pid: int) -> int:
    """The peak of this process, or the present sum of a server's."""
    if not pid:  # not ru_maxrss, which begins at what the parent had
        (peak,) = re.findall(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
        return int(peak) * 1024
    return memory_bytes(family(pid)[1:])


if __name__ == "__main__":
    main()
