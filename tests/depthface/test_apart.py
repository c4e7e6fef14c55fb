"""HEIC and AVIF in a process of their own: it is ended in time, used again, and never in the way."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from fixtures.photos import encoded, heic, photo
from PIL import Image, features

from depthface import apart, image
from depthface.errors import InvalidImage

SMALL = photo("chelsea.png").resize((60, 40))
HEIC, AVIF = heic(SMALL), encoded(SMALL, "AVIF")

# What stands in for a decoder that a damaged file holds: it runs in C, lets no signal's handler run, and never ends.
HANGS = "import re; open_heif = lambda *a, **k: re.match(r'(a+)+$', 'a' * 64 + 'b')"
SLEEPS = "import time; open_heif = lambda *a, **k: time.sleep(1e6)"
CRASHES = "import os, signal; open_heif = lambda *a, **k: os.kill(os.getpid(), signal.SIGSEGV)"
KILLED = "import os, signal; open_heif = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)"
SWELLS = "open_heif = lambda *a, **k: bytearray(8 * 2**30)"


@pytest.fixture(autouse=True)
def _no_process_of_others():
    apart._let_go()
    yield
    apart._let_go()


@pytest.fixture
def decoder_that(tmp_path, monkeypatch):
    """Put another `pillow_heif` in the place of the true one."""

    def put(code: str) -> None:
        folder = tmp_path / "pillow_heif"
        folder.mkdir()
        (folder / "__init__.py").write_text(f"from . import options\n{code}\n")
        (folder / "options.py").touch()
        monkeypatch.syspath_prepend(tmp_path)

    return put


def process() -> int:
    return apart._worker._process.pid


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(condition, seconds: float = 300) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def test_one_process_reads_all_of_them():
    image.decode(HEIC)
    first = process()
    for data in (AVIF, HEIC, AVIF):
        assert image.size_of(data) == image.decode(data).shape[:2] == (40, 60)
    assert process() == first


@pytest.mark.parametrize(
    ("ask", "how"),
    [(image.decode, HANGS), (image.size_of, HANGS), (image.decode, SLEEPS)],
    ids=["decode", "size", "sleep"],
)
def test_a_decoder_that_hangs_is_ended_in_time(ask, how, decoder_that, monkeypatch):
    decoder_that(how)
    image.decode(encoded(SMALL, "AVIF"))
    monkeypatch.setattr(apart, "TIME_LIMIT_S", 0.8)
    pid, begun = process(), time.monotonic()
    with pytest.raises(InvalidImage, match=r"not be decoded within 0\.8 seconds"):
        ask(HEIC)
    assert time.monotonic() - begun < 90
    assert not is_alive(pid)
    monkeypatch.setattr(apart, "TIME_LIMIT_S", 60)
    assert image.decode(AVIF).shape == (40, 60, 3)  # in another one


def test_a_decoder_that_crashes_costs_one_photo(decoder_that):
    decoder_that(CRASHES)
    with pytest.raises(InvalidImage, match="ended while it read this photo"):
        image.decode(HEIC)
    assert image.decode(AVIF).shape == (40, 60, 3)


def test_a_decoder_has_so_much_memory_and_no_more(decoder_that):
    decoder_that(SWELLS)
    with pytest.raises(InvalidImage, match="too much memory"):
        image.decode(HEIC)
    assert image.decode(AVIF).shape == (40, 60, 3)


def test_a_decoder_that_the_kernel_ends_for_its_memory_is_not_the_photos_fault(decoder_that):
    decoder_that(KILLED)
    with pytest.raises(MemoryError, match="HEIC"):
        image.decode(HEIC)
    assert image.decode(AVIF).shape == (40, 60, 3)


@pytest.mark.parametrize("format", ["AVIF", "HEIC"])
def test_a_lack_of_memory_is_not_the_photos_fault(format):
    """By a limit that the decoder's process has from its owner, from too little to start to enough."""
    code = """
import functools, resource, subprocess, sys
from depthface import apart, image
from depthface.errors import InvalidImage
data = sys.stdin.buffer.read()
whole = subprocess.Popen
for mb in (50, 200, 1000):
    limit = (mb * 2**20, mb * 2**20)
    subprocess.Popen = functools.partial(whole, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, limit))
    apart._let_go()
    try:
        image.decode(data)
        print("decoded")
    except MemoryError:
        print("no memory")
    except InvalidImage as error:
        print(error)
"""
    size = (4000, 3000)  # of which a decoder's memory depends, and not on what is to be seen
    plain, seen = Image.new("RGB", size, "olive"), photo("chelsea.png").resize(size)
    data = heic(plain, "ultrafast") if format == "HEIC" else encoded(seen, "AVIF", speed=10)
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    said = done.stdout.decode().splitlines()
    assert said[-1] == "decoded"
    assert "no memory" in said
    assert not [line for line in said if "damaged" in line], said


def test_damaged_files_end_in_a_sentence():
    for data in (HEIC, AVIF):
        for cut in (40, len(data) // 3, data.index(b"mdat") + 100):
            with pytest.raises(InvalidImage, match=r"damaged, or of a kind .*\.$"):
                image.decode(data[:cut])
    assert image.decode(HEIC).shape == (40, 60, 3)


def test_a_process_that_had_ended_is_replaced():
    image.decode(AVIF)
    os.kill(process(), 9)
    assert until(lambda: not is_alive(process()))
    assert image.decode(AVIF).shape == (40, 60, 3)


def test_a_decoder_that_hangs_ends_although_its_owner_is_gone(decoder_that, tmp_path):
    decoder_that(HANGS)
    (tmp_path / "photo.heic").write_bytes(HEIC)
    code = (
        "import os, sys, threading, time; sys.path.insert(0, sys.argv[1]); from depthface import apart, image\n"
        "apart.TIME_LIMIT_S = 0.5; data = open(sys.argv[1] + '/photo.heic', 'rb').read()\n"
        "def ask():\n"
        "    while True:\n"
        "        try: image.size_of(data)\n"
        "        except Exception: pass\n"
        "threading.Thread(target=ask, daemon=True).start()\n"
        "while (worker := apart._worker) is None or worker.is_fresh: time.sleep(0.05)\n"
        "print(worker._process.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    said = subprocess.run([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True, check=False)
    pid = int(said.stdout)
    assert until(lambda: not is_alive(pid))


def test_nothing_is_left_when_the_owner_ends():
    code = "import sys; from depthface import apart, image; image.size_of(sys.stdin.buffer.read())"
    code += "; print(apart._worker._process.pid)"
    said = subprocess.run([sys.executable, "-c", code], input=AVIF, stdout=subprocess.PIPE, check=True)
    assert until(lambda: not is_alive(int(said.stdout)))


def test_a_fork_has_a_process_of_its_own():
    expected = image.decode(HEIC)
    mine = process()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:  # no test framework from here on
        try:
            same = np.array_equal(image.decode(HEIC), expected) and process() != mine
            os.write(writing, b"same" if same else b"other")
        finally:
            apart._let_go()
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    assert os.read(reading, 9) == b"same"
    os.close(reading)
    np.testing.assert_array_equal(image.decode(HEIC), expected)
    assert process() == mine


def test_threads_get_their_own_photos():
    photos = [encoded(SMALL.resize((20 + number, 30)), "AVIF") for number in range(12)]
    got: dict[int, tuple[int, ...]] = {}
    threads = [
        threading.Thread(target=lambda number=number: got.update({number: image.decode(photos[number]).shape}))
        for number in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == {number: (30, 20 + number, 3) for number in range(12)}


@pytest.mark.parametrize("program", ["", "/opt/tritonserver/backends/python/triton_python_backend_stub"])
def test_a_program_that_is_not_python_finds_one(program, monkeypatch):
    monkeypatch.setattr(sys, "executable", program)
    assert image.decode(AVIF).shape == (40, 60, 3)


def test_what_lies_in_the_working_folder_is_not_run(tmp_path, monkeypatch):
    for name in ("numpy", "json", "pillow_heif", "depthface"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert image.decode(HEIC).shape == (40, 60, 3)
    assert not (tmp_path / "ran").exists()


def test_a_missing_decoder_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setattr(apart.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(features, "check", lambda name: False)
    with pytest.raises(InvalidImage, match="pip install pillow-heif"):
        image.decode(HEIC)
    with pytest.raises(InvalidImage, match="pip install --upgrade pillow"):
        image.decode(AVIF)


def test_no_python_at_all_is_said(monkeypatch):
    for name in ("executable", "prefix", "base_prefix", "exec_prefix", "base_exec_prefix"):
        monkeypatch.setattr(sys, name, "/nowhere")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InvalidImage, match="no python3"):
        image.decode(AVIF)


def test_of_a_heic_only_the_primary_picture_is_decoded():
    import pillow_heif

    file = pillow_heif.HeifFile()
    for made in (SMALL.rotate(180), SMALL, SMALL.resize((30, 20))):
        file.add_from_pillow(made)
    from io import BytesIO

    buffer = BytesIO()
    file.save(buffer, quality=90, primary_index=1)
    expected = np.asarray(Image.open(BytesIO(HEIC)).convert("RGB"))
    np.testing.assert_array_equal(image.decode(buffer.getvalue()), expected)
