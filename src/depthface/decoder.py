"""The process that `apart` starts: opens and decodes AVIF and HEIC files, one after the other."""

from __future__ import annotations

import resource
import select
import signal
import sys
from collections.abc import Callable
from io import BytesIO, FileIO

from PIL import AvifImagePlugin, Image, UnidentifiedImageError

from depthface import picture
from depthface.apart import ANSWER, ASK, WAIT_FACTOR

__all__ = ["serve"]

_MEMORY_BYTES = 4 * 2**30
"""Of the whole process: the largest photo that is taken needs a third of it."""

_IDLE_S = 60.0

_Opener = Callable[[bytes], tuple[tuple[int, int], Callable[[], Image.Image]]]
"""A file → the height and width of the upright photo, and what decodes it."""


def serve() -> None:
    """Answer until nothing is asked any more."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    has_all = hard == resource.RLIM_INFINITY or hard >= _MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES if has_all else hard, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the owner's
    for alarm in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(alarm, signal.SIG_DFL)  # each ends the process whatever it is doing
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGPROF, signal.SIGALRM))  # the owner's thread may block them
    Image.MAX_IMAGE_PIXELS = None  # the owner's limit holds, before anything is decoded
    source, sink = FileIO(sys.stdin.fileno(), closefd=False), sys.stdout.buffer
    sink.write(b"!")
    sink.flush()
    while select.select([source], [], [], _IDLE_S)[0]:
        head = _read(source, ASK.size)
        if len(head) < ASK.size:
            return
        format, wanted, max_pixels, limit_s, count = ASK.unpack(head)
        data = bytes(_read(source, count))
        _set_timers(limit_s)
        status, height, width, body = _opened_here(format.decode(), wanted, max_pixels, data, has_all=has_all)
        _set_timers(0)
        sink.write(ANSWER.pack(status, height, width, len(body)))
        sink.write(body)
        sink.flush()
        del data, body


def _set_timers(limit_s: float) -> None:
    signal.setitimer(signal.ITIMER_PROF, limit_s)  # of computing, all threads together
    signal.setitimer(signal.ITIMER_REAL, WAIT_FACTOR * limit_s)


def _read(source: FileIO, count: int) -> bytearray:
    buffer = bytearray(count)
    left = memoryview(buffer)
    while left:
        got = source.readinto(left)
        if not got:
            return bytearray()
        left = left[got:]
    return buffer


def _opened_here(
    format: str, wanted: bytes, max_pixels: int, data: bytes, *, has_all: bool
) -> tuple[bytes, int, int, bytes]:
    height = width = 0
    try:
        (height, width), load = _OPENERS[format](data)
        if height * width > max_pixels:
            return b"l", height, width, b""
        if wanted == b"s":
            return b"o", height, width, b""
        photo = load()
        return b"o", photo.height, photo.width, photo.tobytes()
    except UnidentifiedImageError:  # its text tells of objects of Python
        return b"d", 0, 0, b""
    except Exception as error:
        says_no_memory = picture.says_no_memory(error)
        # A sound photo has enough of all that this process may have: what has not is no fault of the photo's.
        if not picture.has_memory_for(height * width) or (says_no_memory and not has_all):
            return b"m", 0, 0, b""
        text = "it needs too much memory" if says_no_memory else " ".join(str(error).split())[:200]
        return b"d", 0, 0, text.encode()


def _open_avif(data: bytes) -> tuple[tuple[int, int], Callable[[], Image.Image]]:
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    image = Image.open(BytesIO(data), formats=["AVIF"])
    width, height = image.size
    orientation = picture.orientation_of(image)
    size = (width, height) if orientation in picture.TURNING else (height, width)
    return size, lambda: picture.turned(image, orientation)


def _open_heic(data: bytes) -> tuple[tuple[int, int], Callable[[], Image.Image]]:
    """pillow-heif turns the pixels itself, and its size is that of the turned picture."""
    import pillow_heif
    from pillow_heif import options

    options.THUMBNAILS = options.DEPTH_IMAGES = options.AUX_IMAGES = False
    options.DECODE_THREADS = 1  # the other cores belong to the networks
    file = pillow_heif.open_heif(BytesIO(data), convert_hdr_to_8bit=True)
    primary = file[file.primary_index]
    width, height = primary.size
    return (height, width), lambda: picture.rgb(primary.to_pillow())


_OPENERS: dict[str, _Opener] = {"AVIF": _open_avif, "HEIC": _open_heic}
