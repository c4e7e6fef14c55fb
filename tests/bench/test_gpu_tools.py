"""What takes the benchmarks to a GPU machine without a network: pieces, the environment, and steps that fail alone."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from types import ModuleType

import pytest
from fixtures.processes import by_ids, ended

from depthface.errors import ServeError

TOOLS = Path(__file__).parents[2] / "tools" / "gpu"
DOCS = TOOLS.parents[1] / "docs" / "gpu.md"
SECOND = 1.0


def tool(name: str) -> ModuleType:
    sys.path.insert(0, str(TOOLS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(TOOLS))


pieces, steps, report, install, pack, run = map(tool, ("pieces", "steps", "report", "install", "pack", "run"))


@pytest.fixture
def files(tmp_path) -> list[Path]:
    made = {"a.whl": b"a" * 10, "none.whl": b"", "large.whl": bytes(range(256)) * 9, "b.tar.gz": b"bb"}
    for name, content in made.items():
        (tmp_path / name).write_bytes(content)
    return [tmp_path / name for name in made]


@pytest.mark.parametrize("piece_bytes", [100, 101, 1000, 2316, 10_000])
def test_pieces_are_small_enough_and_join_to_the_same_files(piece_bytes, files, tmp_path):
    found = pieces.split(files, tmp_path / "pieces", piece_bytes)
    parts = sorted((tmp_path / "pieces").glob("piece-*/data"))
    assert len(parts) == len(found["pieces"]) == -(-2316 // piece_bytes)
    assert {part.stat().st_size for part in parts[:-1]} <= {piece_bytes}
    assert 0 < parts[-1].stat().st_size <= piece_bytes
    joined = pieces.join(tmp_path / "pieces", tmp_path / "joined")
    assert [(one.name, one.read_bytes()) for one in joined] == [(one.name, one.read_bytes()) for one in files]


def test_a_pack_is_written_anew(files, tmp_path):
    pieces.split(files, tmp_path / "pieces", 100)
    pieces.split(files[:1], tmp_path / "pieces", 100)
    assert [one.name for one in (tmp_path / "pieces").iterdir()] == ["piece-00"]


def test_a_piece_and_this_checkout_may_travel_together():
    """With 2 MiB to spare, for the pictures of another machine's results."""
    root = TOOLS.parents[1]
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True).stdout
    checkout = sum(path.stat().st_size for name in tracked.split("\0")[:-1] if (path := root / name).is_file())
    assert pieces.MOST_PIECE_BYTES + checkout <= 58 * 2**20


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda piece: (piece / "data").write_bytes(b"x" * 1000), "piece-01 is damaged"),
        (lambda piece: (piece / "data").write_bytes(b"x"), "piece-01 is damaged"),
        (lambda piece: (piece / "data").unlink(), "piece-01 is missing"),
        (lambda piece: (piece / "pack.json").write_text('{"files": [], "pieces": []}'), "different packs"),
    ],
    ids=["other bytes", "cut off", "missing", "of another pack"],
)
def test_a_damaged_pack_is_refused_and_nothing_is_written(damage, said, files, tmp_path):
    pieces.split(files, tmp_path / "pieces", 1000)
    damage(tmp_path / "pieces" / "piece-01")
    with pytest.raises(pieces.PackError, match=f"{said}.*anew"):
        pieces.join(tmp_path / "pieces", tmp_path / "joined")
    assert not (tmp_path / "joined").exists()


def test_no_pack_at_all_is_refused(tmp_path):
    with pytest.raises(pieces.PackError, match=r"no piece of a pack in .*pack\.py"):
        pieces.join(tmp_path, tmp_path / "joined")


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-S", "-c", code)


def test_a_step_fails_alone_and_what_is_found_is_there_before_the_next(tmp_path):
    book = steps.Book(tmp_path / "results")
    written = str(tmp_path / "results" / "results.json")
    seen = f"import json; states = [one.get('state') for one in json.load(open({written!r}))]"
    all_of = [
        steps.Step("raises", "Raises", 1, python("print('first'); raise ValueError('the reason')")),
        steps.Step("crashes", "Crashes", 1, python(f"{seen}; assert states == ['failed']; import os; os.abort()")),
        steps.Step("missing", "Is not there", 1, ("/nonexistent/python",)),
        steps.Step("works", "Works", 1, python(f"{seen}; assert states == ['failed'] * 3")),
    ]
    steps.go(all_of, book, tmp_path / "log", lambda: 600 * SECOND)
    ends = {one["step"]: one for one in book.records()}
    assert [one["state"] for one in ends.values()] == ["failed", "failed", "failed", "done"]
    assert "exit code 1" in ends["raises"]["error"] and "the reason" in ends["raises"]["error"]
    assert "SIGABRT" in ends["crashes"]["error"]
    assert "No such file" in ends["missing"]["error"]
    assert "first" in (tmp_path / "log").read_text()


def test_the_budget_ends_what_hangs_and_skips_what_no_longer_fits(tmp_path):
    book = steps.Book(tmp_path)
    child = "import subprocess, sys; p = subprocess.Popen(['sleep', '600']); print(p.pid, flush=True); p.wait()"
    left_s = iter([0.5, 0.1, 50.0])
    all_of = [
        steps.Step("hangs", "Hangs", 0.2, python(child)),
        steps.Step("large", "Large", 30, python("raise SystemExit(1)")),
        steps.Step("small", "Small", 30, python("")),
    ]
    steps.go(all_of, book, tmp_path / "log", lambda: next(left_s))
    hung, skipped, done = book.records()
    assert (hung["state"], skipped["state"], done["state"]) == ("cut off", "skipped", "done")
    assert "30 s" in skipped["error"]
    started = [int(line) for line in (tmp_path / "log").read_text().splitlines() if line.isdigit()]
    assert ended(by_ids(started))


def test_what_hangs_leaves_the_steps_behind_it_what_they_need(tmp_path):
    book = steps.Book(tmp_path)
    until, says = time.time() + 7, "import sys; print(*sys.argv[-2:], flush=True)"
    all_of = [
        steps.Step("hangs", "Hangs", 0.1, python(f"{says}; import time; time.sleep(600)")),
        steps.Step("next", "Is next", 5, python(says)),
    ]
    steps.go(all_of, book, tmp_path / "log", lambda: until - time.time())
    assert [one["state"] for one in book.records()] == ["cut off", "done"]
    first, last = (line.split() for line in (tmp_path / "log").read_text().splitlines() if "--until" in line)
    assert float(first[1]) == pytest.approx(until - 5.5, abs=0.5)
    assert float(last[1]) == pytest.approx(until, abs=0.5)


def test_a_machine_without_the_library_of_triton_is_told_of_first(tmp_path, monkeypatch, capsys):
    """And the networks are measured all the same: here there is nothing to install them from."""
    monkeypatch.setattr(run, "has_libpython", lambda: False)
    chosen = Namespace(pieces=tmp_path, work=tmp_path, results=tmp_path, seconds=60, rehearse=True, only=None)
    with pytest.raises(SystemExit, match="no piece of a pack"):
        run._run(Namespace(**vars(chosen), installed=False))
    assert f"no {install.LIBPYTHON} here" in capsys.readouterr().out


def test_that_library_is_looked_for_where_the_server_looks(monkeypatch, tmp_path):
    (line,) = (line for line in DOCS.read_text().splitlines() if "has_libpython" in line)
    command = line.replace("python3", sys.executable).replace("tools/gpu", str(TOOLS))
    assert subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout == "True\n"
    monkeypatch.setattr(install.sysconfig, "get_config_var", lambda _: str(tmp_path))
    monkeypatch.setattr(install, "LIBPYTHON", "libnone.so.1.0")
    assert not install.has_libpython()
    (tmp_path / "libnone.so.1.0").touch()
    assert install.has_libpython()


@pytest.mark.parametrize("step", ["depth", "faces"])
def test_nothing_is_measured_for_a_triton_that_cannot_run(step, monkeypatch):
    def missing() -> None:
        raise ServeError("There is no library.")

    serving = tool("serving")
    monkeypatch.setattr(serving.Installation, "find", missing)
    with pytest.raises(ServeError, match="no library"):
        getattr(serving, step)(None)


def test_a_record_that_was_cut_off_costs_itself_alone(tmp_path):
    book = steps.Book(tmp_path)
    book.add("small", "row", table="Network", batch=1, ms=0.51234)
    book.add("small", "aim", text="1 ms | less", value=0.5, met=True)
    with (tmp_path / "records.jsonl").open("a") as file:
        file.write('{"step": "small", "ki')
    text = book.write().read_text()
    assert "| 1 | 0.512 |" in text
    assert "**met**: 1 ms" in text
    assert len(json.loads((tmp_path / "results.json").read_text())) == 2


def test_a_table_has_every_column_of_its_rows_and_no_cell_that_breaks_it():
    rows = [
        {"step": "s", "kind": "row", "table": "T", "a": 1},
        {"step": "s", "kind": "row", "table": "T", "b": "x|y\nz"},
    ]
    text = report.markdown(rows)
    assert "| a | b |\n|---|---|\n| 1 |  |\n|  | x\\|y z |" in text


def test_what_torch_brings_is_linked_and_no_more(tmp_path, monkeypatch):
    machine, packages = tmp_path / "machine", tmp_path / "packages"
    packages.mkdir()
    for name, asks in (("big", "needed>=1\nextra-one; extra == 'x'\nabsent"), ("needed", "big"), ("extra-one", "")):
        info = machine / f"{name.replace('-', '_')}-1.dist-info"
        info.mkdir(parents=True)
        module = name.replace("-", "_")
        (machine / module).mkdir()
        (machine / module / "__init__.py").touch()
        (machine / f"{module}.pth").touch()
        requires = "".join(f"Requires-Dist: {line}\n" for line in asks.splitlines())
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n{requires}")
        (info / "RECORD").write_text(f"{module}/__init__.py,,\n{module}.pth,,\n{info.name}/METADATA,,\n../../bin/x,,\n")
    (packages / "needed").mkdir()
    monkeypatch.syspath_prepend(str(machine))
    install.link(install.brought_by("big"), packages)
    assert sorted(one.name for one in packages.iterdir()) == ["big", "big-1.dist-info", "needed", "needed-1.dist-info"]
    assert (packages / "big").resolve() == machine / "big"
    assert not (packages / "needed").is_symlink()
    assert not list(install.brought_by("not-installed-at-all"))


def test_what_torch_brings_does_not_travel():
    lines = ["torch==2.13.0", "triton==3.7.1", "nvidia-cublas==13.1", "cuda-toolkit==13.0", "sympy==1.14"]
    assert pack.kept([*lines, "opencv-python==4.11"]) == []
    ours = ["nvidia-pytriton==0.7.0", "nvidia-ml-py==13.6", "tritonclient==2.73.0", "opencv-python-headless==4.11"]
    assert pack.kept([*ours, "onnxruntime==1.31.1"]) == [*ours, "onnxruntime-gpu==1.31.1"]
