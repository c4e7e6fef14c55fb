"""Results into files: two never share one, nothing is lost, nothing is left."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from fixtures.photos import VARIETY
from fixtures.serving import COMMAND, depthface, in_this_process

from depthface import photos as photos_module
from depthface.errors import InvalidImage, InvalidInput, OutputError
from depthface_client import outputs

PHOTO = VARIETY["tiny 40×30"]


def photos(tmp_path: Path, *names: str) -> list[Path]:
    paths = [tmp_path / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PHOTO)
    return paths


@pytest.mark.parametrize(
    "names", [("a/1.png", "b/1.png"), ("1.png", "1.jpg"), ("1.png", "1.png"), ("x/1.png", "1.jpeg")]
)
def test_two_photos_of_one_name_are_refused_before_anything_is_written(tmp_path, names):
    found = photos(tmp_path, *names)
    with pytest.raises(InvalidInput, match="both") as caught:
        outputs.targets(found, str(tmp_path / "maps"), "_depth.png")
    assert all(str(path) in str(caught.value) for path in found)
    done = in_this_process("depth", *found, "--out", tmp_path / "maps", "--url", "127.0.0.1:9")
    assert done.returncode != 0
    assert "both" in done.stderr
    assert not (tmp_path / "maps").exists()


def test_a_photo_is_never_written_over(tmp_path):
    first, second = photos(tmp_path, "a.png", "a_depth.png")
    link = tmp_path / "link.png"
    link.symlink_to(first)
    for found, out in (
        ([first], first),
        ([first], link),
        ([first, second], tmp_path),
        ([first], f"{tmp_path}/x/../a.png"),
    ):
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(InvalidInput, match="over"):
            outputs.targets(found, str(out), "_depth.png")


def test_many_photos_are_looked_at_once_each(tmp_path, monkeypatch):
    """Each against each was minutes for thousands."""
    looked = 0
    stat_of = os.stat

    def counted(*arguments: object, **options: object) -> os.stat_result:
        nonlocal looked
        looked += 1
        return stat_of(*arguments, **options)

    (first,) = photos(tmp_path, "0.png")
    for number in range(1, 300):
        os.link(first, tmp_path / f"{number}.png")
    monkeypatch.setattr(os, "stat", counted)
    outputs.targets([tmp_path / f"{number}.png" for number in range(300)], str(tmp_path / "new"), "_d.png")
    assert looked < 300 * 10


def test_where_a_result_could_not_be_put_is_told_beforehand(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to("file/x")
    for name in ("folder", "file/x", "link", "x" * 300, "nul\0l"):
        with pytest.raises(OutputError, match="cannot be written"):
            outputs.check_place(tmp_path / name)
    for path in (tmp_path / "new/deep/x", tmp_path / "file", Path("/dev/null"), outputs.STANDARD):
        outputs.check_place(path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "link"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_file_that_may_be_written_in_a_folder_that_may_not_is_a_place(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    tmp_path.chmod(0o555)
    try:
        outputs.check_place(tmp_path / "file")
        with pytest.raises(OutputError, match="nothing can be made"):
            outputs.check_place(tmp_path / "new")
        with pytest.raises(OutputError, match="nothing can be made"):
            outputs.check_place(tmp_path / "file", is_made_beside=True)
    finally:
        tmp_path.chmod(0o755)


def test_where_results_go(tmp_path):
    first, second = photos(tmp_path, "a.png", "b.tar.png")
    assert outputs.targets([first], "new.png", "_d.png") == [Path("new.png")]
    assert outputs.targets([first], "new/", "_d.png") == [Path("new/a_d.png")]
    assert outputs.targets([first], str(tmp_path), "_d.png") == [tmp_path / "a_d.png"]
    assert outputs.targets([first, second], "new", "_d.png") == [Path("new/a_d.png"), Path("new/b.tar_d.png")]
    assert outputs.targets([first], "-", "_d.png") == [outputs.STANDARD]
    assert outputs.targets([outputs.STANDARD], "new/", "_d.png") == [Path("new/stdin_d.png")]
    with pytest.raises(InvalidInput, match="one photo"):
        outputs.targets([first, second], "-", "_d.png")
    with pytest.raises(OutputError, match="long"):
        outputs.targets([first], "x" * 300, "_d.png")


def test_permissions_are_the_users(tmp_path):
    before = os.umask(0o027)
    try:
        outputs.write(tmp_path / "new", b"1")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
    (tmp_path / "new").chmod(0o604)
    outputs.write(tmp_path / "new", b"22")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o604
    assert (tmp_path / "new").read_bytes() == b"22"


def test_links_devices_and_pipes_stay_what_they_are(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "dangling").symlink_to("to/be/made")
    outputs.write(tmp_path / "link", b"new")
    outputs.write(tmp_path / "dangling", b"made")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes() == b"new"
    assert (tmp_path / "dangling").is_symlink() and (tmp_path / "to/be/made").read_bytes() == b"made"
    outputs.write(Path("/dev/null"), b"x" * 10)
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    os.mkfifo(tmp_path / "pipe")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    outputs.write(tmp_path / "pipe", b"y" * 200_000)
    reader.join(300)
    assert got == [b"y" * 200_000]
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_an_open_file_descriptor_is_written_to_by_its_name():
    """As a shell gives it for `--out >(…)`: its link leads to no path."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as file:
        outputs.write(Path(f"/dev/fd/{writing}"), b"content")
        os.close(writing)
        assert file.read() == b"content"
    assert outputs.targets([outputs.STANDARD], "/dev/stdout", ".png") == [outputs.STANDARD]


@pytest.mark.parametrize("name", ["folder", "file/x", "x" * 300, "nul\0l"])
def test_what_cannot_be_written_is_one_sentence_and_leaves_nothing(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError, match="cannot be written"):
        outputs.write(tmp_path / name, b"content")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_full_disk_leaves_nothing(tmp_path):
    """Past the limit on the size of files the kernel refuses as on a full disk."""
    code = (
        "import resource, signal, pathlib, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); from depthface_client import outputs;"
        "from depthface.errors import OutputError\n"
        "try: outputs.write(pathlib.Path(sys.argv[1]), b'x' * 5000)\nexcept OutputError as error: print(error)"
    )
    (tmp_path / "kept").write_bytes(b"old")
    for name in ("new/deep", "kept"):
        done = subprocess.run(
            [sys.executable, "-c", code, tmp_path / name], capture_output=True, text=True, check=False, timeout=300
        )
        assert "cannot be written" in done.stdout, done.stderr
    assert [path.name for path in tmp_path.rglob("*")] == ["kept"]
    assert (tmp_path / "kept").read_bytes() == b"old"


def test_standard_input_and_output(server, tmp_path):
    (photo,) = photos(tmp_path, "a.png")
    expected = depthface("depth", photo, "--out", tmp_path / "b.png", "--url", server.host)
    assert expected.returncode == 0, expected.stderr
    command = [*COMMAND, "depth", "-", "--out", "-", "--url", server.host]
    done = subprocess.run(command, input=PHOTO, capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_an_odd_output_encoding_costs_no_photo(server, tmp_path, encoding):
    found = photos(tmp_path, "ä→.png", "b.png")
    done = subprocess.run(
        [*COMMAND, "depth", *found, "--out", tmp_path / "maps", "--url", server.host],
        env=os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2
    assert len(list((tmp_path / "maps").iterdir())) == 2


def test_the_url_may_come_from_the_environment(server):
    assert "healthy" in depthface("health", DEPTHFACE_URL=server.host).stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("swap", "--source", "a.png", "--target", "b.png", "--out", "a.png"),
        ("swap", "--source", "a.png", "--target", "b.png", "--out", "b.png"),
        ("embed", "a.png", "b.png", "--out", "b.png"),
        ("embed", "a.png", "--out", "link.png"),
        ("faces", "a.png", "--draw", "link.png"),
        ("depth", "a.png", "--out", "link.png"),
    ],
    ids=" ".join,
)
def test_no_command_writes_over_what_it_reads(tmp_path, monkeypatch, arguments):
    photos(tmp_path, "a.png", "b.png")
    (tmp_path / "link.png").symlink_to("a.png")
    monkeypatch.chdir(tmp_path)
    done = in_this_process(*arguments, "--url", "127.0.0.1:9")
    assert done.returncode == 1
    assert "over" in done.stderr
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes() == PHOTO


@pytest.mark.parametrize(
    "arguments",
    [
        ("depth", "a.png", "--out", "-"),
        ("faces", "a.png", "--draw", "/dev/stdout"),
        ("swap", "--source", "a.png", "--target", "b.png", "--out", "-"),
        ("embed", "a.png", "--out", "-"),
    ],
    ids=" ".join,
)
def test_standard_output_is_a_result_or_a_document(tmp_path, monkeypatch, arguments):
    photos(tmp_path, "a.png", "b.png")
    monkeypatch.chdir(tmp_path)
    done = in_this_process(*arguments, "--json", "--url", "127.0.0.1:9")
    assert done.returncode == 2
    assert "--json" in done.stderr
    assert not done.stdout


STANDARD_STREAMS = """
from depthface.errors import DepthfaceError
from depthface_client import outputs
import sys
for do in (lambda: outputs.read(outputs.STANDARD), lambda: outputs.write(outputs.STANDARD, b"")):
    try:
        do()
    except DepthfaceError as error:
        print(type(error).__name__, error, file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("closed", "says"),
    [
        ("<&- >&-", ["InvalidImage Standard input is closed.", "OutputError Standard output is closed."]),
        ("</dev/null", ["InvalidImage Standard input is empty"]),
        ("0>/dev/null", ["InvalidImage Standard input cannot be read"]),
    ],
    ids=["closed", "empty", "only to write"],
)
def test_a_standard_stream_that_is_none_is_one_sentence(closed, says):
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", STANDARD_STREAMS]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0
    lines = done.stderr.splitlines()
    assert len(lines) == len(says), done.stderr
    assert all(line.startswith(text) for line, text in zip(lines, says, strict=True)), lines


def test_standard_input_that_never_ends_is_no_photo(monkeypatch):
    monkeypatch.setattr(photos_module, "_MOST_BYTES", 2**20)
    with Path("/dev/zero").open() as endless:
        monkeypatch.setattr(sys, "stdin", endless)
        with pytest.raises(InvalidImage, match="Standard input has more than 1 MiB"):
            outputs.read(outputs.STANDARD)
