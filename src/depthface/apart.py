"""Decode the photos of video codecs, HEIC and AVIF, in a process of their own, which has a time limit for each.

Their decoders are large, and a damaged file can hold one for ever (libheif before 1.20 did so). A thread cannot be
ended; a process can. It starts with the first such photo, is used again for the next, and ends itself when it has had
nothing to do for a minute. It has the caller's `sys.path` and nothing else of it, so that it is the same in a process
whose program is not Python, such as Triton's stub.

The wire, both ways, is a head and bytes: `ASK` and a file; `ANSWER` and pixels `(H, W, 3) uint8 RGB`, or a text.
"""

from __future__ import annotations

import atexit
import errno
import fcntl
import importlib.util
import json
import os
import select
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from PIL import Image, features

from depthface.errors import InvalidImage
from depthface.limits import too_large

__all__ = ["ANSWER", "ASK", "TIME_LIMIT_S", "WAIT_FACTOR", "decode", "size_of"]

TIME_LIMIT_S = 10.0
"""Of computing, for one photo. One of 12 megapixels takes half a second, the largest that is taken a few."""

WAIT_FACTOR = 6
"""How many times that may pass by the clock: the machine may have more to do."""

_OUT_OF_TIME = (-signal.SIGPROF, -signal.SIGALRM)
"""How the process ends where it is over its time: by the kernel, whatever it is doing."""

_START_S = 60.0
"""A start is a matter of a tenth of a second, but of many on a machine that has too much to do."""

ASK = struct.Struct("<4scQdQ")
"""The format, what is wanted (b"s" or b"d"), the most pixels, the time limit in seconds, the bytes that follow."""

ANSWER = struct.Struct("<cIIQ")
"""How it went (see `_answered`), height, width, the bytes that follow."""

_CODE = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from depthface import decoder; decoder.serve()"

_PIPE_BYTES = 2**20
_F_SETPIPE_SZ = 1031  # fcntl.F_SETPIPE_SZ; Linux


def size_of(data: bytes, format: str, *, max_pixels: int) -> tuple[int, int]:
    """Return the height and width of an AVIF or HEIC file, upright, read from its head. Raises as `decode` does."""
    height, width, _ = _ask(data, format, b"s", max_pixels)
    return height, width


def decode(data: bytes, format: str, *, max_pixels: int) -> Image.Image:
    """Decode the first picture of an AVIF, the primary one of a HEIC file.

    Args:
        data: the file.
        format: "AVIF" or "HEIC".
        max_pixels: of a photo; looked at before it is decoded.

    Returns:
        An upright RGB picture.

    Raises:
        ImageTooLarge: over `max_pixels`.
        InvalidImage: damaged, over `TIME_LIMIT_S`, or the decoder is not installed.
        MemoryError: there is not the memory for it now; the photo may be sound.
    """
    height, width, pixels = _ask(data, format, b"d", max_pixels)
    return Image.frombuffer("RGB", (width, height), pixels, "raw", "RGB", 0, 1)


class _Worker:
    """The process, as its owner sees it."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.is_fresh = True
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "PYTHON"))}
        self._process = subprocess.Popen(
            [_python(), "-I", "-S", "-c", _CODE, json.dumps([str(Path(path).absolute()) for path in sys.path if path])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd="/",
            env=environment,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._to, False)
        os.set_blocking(self._from, False)
        _widen(self._to)
        _widen(self._from)

    def ask(self, head: bytes, data: bytes, limit_s: float) -> tuple[bytes, int, int, bytearray]:
        """Send a request and return its answer; raise TimeoutError, or EOFError if the process ended."""
        if self.is_fresh:
            self._fill(bytearray(1), time.monotonic() + _START_S)  # it is up
            self.is_fresh = False
        until = time.monotonic() + WAIT_FACTOR * limit_s + 1
        for piece in (head, data):
            left = memoryview(piece)
            while left:
                self._wait(self._to, select.POLLOUT, until)
                try:
                    left = left[os.write(self._to, left) :]
                except BlockingIOError:
                    continue
                except BrokenPipeError as error:
                    raise EOFError from error
        answer = bytearray(ANSWER.size)
        self._fill(answer, until)
        status, height, width, count = ANSWER.unpack(answer)
        body = bytearray(count)
        self._fill(body, until)
        return status, height, width, body

    def _fill(self, buffer: bytearray, until: float) -> None:
        left = memoryview(buffer)
        while left:
            self._wait(self._from, select.POLLIN, until)
            try:
                count = os.readv(self._from, [left])
            except BlockingIOError:
                continue
            if not count:
                raise EOFError
            left = left[count:]

    @staticmethod
    def _wait(descriptor: int, event: int, until: float) -> None:
        poll = select.poll()
        poll.register(descriptor, event)
        if not poll.poll(max(until - time.monotonic(), 0) * 1000):
            raise TimeoutError

    def end(self) -> int:
        """End the process, and say how it ended (`Popen.returncode`); in a fork of its owner, only let go of it."""
        if self.owner == os.getpid():
            self._process.kill()
            self._process.wait()
        else:
            self._process.returncode = 0
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        return int(self._process.returncode)


_worker: _Worker | None = None
_lock = threading.Lock()


def _ask(data: bytes, format: str, wanted: bytes, max_pixels: int) -> tuple[int, int, bytearray]:
    _must_have_decoder(format)
    head = ASK.pack(format.encode(), wanted, max_pixels, TIME_LIMIT_S, len(data))
    with _lock:
        status, height, width, body = _answered(head, data, format)
    if status == b"o":
        return height, width, body
    if status == b"m":
        raise _no_memory(format)
    text = body.decode("utf-8", "replace")
    if status == b"l":
        raise too_large(width, height, max_pixels)
    why = f" ({text})" if text else ""
    raise InvalidImage(f"This {format} is damaged, or of a kind that cannot be read{why}.", "Save the photo as JPEG.")


def _answered(head: bytes, data: bytes, format: str) -> tuple[bytes, int, int, bytearray]:
    """Return how it went, the photo's height and width, and its pixels or a text.

    It went well (b"o"), the photo is too large (b"l") or damaged (b"d"), or there is not the memory for it (b"m").
    """
    global _worker
    while True:
        worker = _worker = _worker or _started(format)
        was_fresh = worker.is_fresh
        try:
            return worker.ask(head, data, TIME_LIMIT_S)
        except (TimeoutError, EOFError) as error:
            was_up, how = not worker.is_fresh, _let_go()
            if isinstance(error, TimeoutError) or how in _OUT_OF_TIME:
                raise InvalidImage(
                    f"The {format} photo could not be decoded within {TIME_LIMIT_S:g} seconds; it may be damaged.",
                    "Save it as JPEG.",
                ) from error
            if was_fresh and how == -signal.SIGKILL:  # by the kernel, where memory runs out
                raise _no_memory(format) from error
            if was_fresh:
                when = "while it read this photo, which may be damaged" if was_up else "as it started"
                raise InvalidImage(f"The decoder of {format} ended {when}.", "Save the photo as JPEG.") from error
            # It had ended before, having had nothing to do.
        except BaseException:  # Ctrl-C: an answer may be under way that is of this photo
            _let_go()
            raise


def _started(format: str) -> _Worker:
    try:
        return _Worker()
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise _no_memory(format) from error
        raise InvalidImage(
            f"No process could be started to decode {format} ({error.strerror}).", "Save the photo as JPEG."
        ) from error


def _no_memory(format: str) -> MemoryError:
    return MemoryError(f"There is not enough memory to decode this {format}.")


def _let_go() -> int | None:
    global _worker
    worker, _worker = _worker, None
    return None if worker is None else worker.end()


def _let_go_after_fork() -> None:
    global _lock
    _lock = threading.Lock()  # a thread that is not here may have held it
    _let_go()


atexit.register(_let_go)
os.register_at_fork(after_in_child=_let_go_after_fork)


def _must_have_decoder(format: str) -> None:
    if format == "HEIC" and importlib.util.find_spec("pillow_heif") is None:
        raise InvalidImage(
            "A HEIC photo needs pillow-heif, which is not installed.",
            "Run: pip install pillow-heif. Or save the photo as JPEG.",
        )
    if format == "AVIF" and not features.check("avif"):
        raise InvalidImage(
            "An AVIF photo needs a Pillow that reads AVIF.",
            "Run: pip install --upgrade pillow. Or save the photo as JPEG.",
        )


def _python() -> str:
    """Return the Python of this process's version and packages, which may not be its program."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    folders = dict.fromkeys([sys.exec_prefix, sys.base_exec_prefix, sys.prefix, sys.base_prefix])
    program = Path(sys.executable or "")
    if program.name.startswith("python") and program.exists():
        return str(program)
    for place in (Path(folder, "bin", name) for folder in folders):
        if place.exists():
            return str(place)
    found = shutil.which(name)
    if found is None:
        raise InvalidImage(
            f"HEIC and AVIF are decoded in a process of their own, and there is no {name} to run it.",
            "Save the photo as JPEG.",
        )
    return found


def _widen(descriptor: int) -> None:
    with suppress(OSError):  # an unprivileged user may have used up what pipes may take
        fcntl.fcntl(descriptor, _F_SETPIPE_SZ, _PIPE_BYTES)
