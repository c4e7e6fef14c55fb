"""What lets the suite run in several processes: what is made once, and who has the machine."""

from __future__ import annotations

import dataclasses
import multiprocessing
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from fixtures import exporting, serving
from fixtures.shared import Shared, copied, linked, room
from fixtures.waiting import HANGS_AFTER_S

fork = multiprocessing.get_context("fork")


def note(log: Path, what: str) -> None:
    with log.open("a") as file:
        file.write(f"{what}\n")


def make_slowly(root: Path) -> None:
    def make(folder: Path) -> None:
        note(root / "log", "made")
        time.sleep(0.3)
        (folder / "file").write_text("whole")

    note(root / "log", (Shared(root / "shared").folder("name", make) / "file").read_text())


def be_in_the_room(root: Path, name: str, alone: bool) -> None:
    for _ in range(20):
        with room(root, alone=alone):
            note(root / "log", f"in {name}")
            time.sleep(0.005)
            note(root / "log", f"out {name}")


def meet_in_the_room(root: Path, barrier: Any) -> None:
    with room(root, alone=False):
        barrier.wait(HANGS_AFTER_S)


def run(*jobs: tuple[object, ...]) -> None:
    """Each a function and its arguments, in processes of their own, at once."""
    processes = [fork.Process(target=function, args=arguments) for function, *arguments in jobs]
    for process in processes:
        process.start()
    for process in processes:
        process.join(HANGS_AFTER_S)
    assert [process.exitcode for process in processes] == [0] * len(processes)


def test_a_folder_is_made_once_and_is_whole_for_all(tmp_path):
    run(*[(make_slowly, tmp_path)] * 3)
    assert (tmp_path / "log").read_text().split() == ["made", "whole", "whole", "whole"]


def test_what_failed_is_tried_again(tmp_path):
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise OSError("no room")

    shared = Shared(tmp_path)
    with pytest.raises(OSError, match="no room"):
        shared.folder("name", fail)
    assert [path.name for path in shared.folder("name", lambda folder: (folder / "whole").touch()).iterdir()] == [
        "whole"
    ]


def test_who_wants_the_machine_alone_has_it_alone_and_others_have_it_together(tmp_path):
    both = fork.Barrier(2)
    run((meet_in_the_room, tmp_path, both), (meet_in_the_room, tmp_path, both))
    run(
        (be_in_the_room, tmp_path, "a", False),
        (be_in_the_room, tmp_path, "b", False),
        (be_in_the_room, tmp_path, "q", True),
    )
    inside: set[str] = set()
    seen = set()
    for line in (tmp_path / "log").read_text().splitlines():
        word, name = line.split()
        (inside.add if word == "in" else inside.remove)(name)
        seen.add(frozenset(inside))
    assert frozenset("q") in seen
    assert not [some for some in seen if "q" in some and len(some) > 1]


@pytest.mark.parametrize(
    ("at_sigterm", "wrong"),
    [("exit(0)", ""), ("exit(3)", "ended with 3"), ("time.sleep(1.5) or exit(0)", "ended with 0 after")],
    ids=["in order", "in error", "late"],
)
def test_how_a_server_has_ended_that_was_left_to_end_is_seen(at_sigterm, wrong, monkeypatch):
    monkeypatch.setattr(serving, "_LEAVING", [])
    monkeypatch.setattr(serving, "ENDS_WITHIN_S", 1.0)
    code = (
        f"import signal, time; signal.signal(signal.SIGTERM, lambda *_: {at_sigterm}); "
        "print('ready: http://here', flush=True); time.sleep(60)"
    )
    server = serving.Server(subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True))
    server.wait_until_ready()
    server.leave()
    if wrong:
        with pytest.raises(AssertionError, match=wrong):
            serving.all_have_left()
    else:
        serving.all_have_left()
    assert serving.leaving() == []


def test_a_copy_may_be_written_to_and_a_linked_one_added_to(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("theirs")
    (copied(source, to=tmp_path / "copy") / "file").write_text("mine")
    (linked(source, to=tmp_path / "link") / "new").write_text("mine")
    (tmp_path / "link" / "file").unlink()
    assert [(path.name, path.read_text()) for path in source.iterdir()] == [("file", "theirs")]


def test_networks_that_differ_in_what_they_compute_alone_are_traced_apart(monkeypatch):
    """The same weights and sizes, with another activation or another `forward`."""
    from fixtures.clip import TINY

    def digest(activation: str) -> str:
        card = dataclasses.replace(TINY, architecture={**TINY.architecture, "hidden_act": activation})
        network = card.networks[0]
        return exporting._digest(exporting.random_sources(card)[network.name], network)

    plain = digest("quick_gelu")
    assert digest("quick_gelu") == plain
    assert digest("gelu") != plain
    monkeypatch.setattr("depthface.families.clip.network.ImageNetwork.forward", lambda self, pixels: pixels * 2)
    assert digest("quick_gelu") != plain
