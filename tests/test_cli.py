"""The front door: the help, the table of commands, exit codes, and what a user sees of an error."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
from fixtures import commands as misbehaving
from fixtures.serving import COMMAND, depthface

from depthface.cli import group
from depthface.commands import COMMANDS, GROUPS

ROOT = Path(__file__).parents[1]
ISSUES = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Issues"]
LOADED = {name: group.get_command(click.Context(group), name) for name in COMMANDS}


def misbehave(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run `depthface` with the commands of `fixtures.commands` in its table."""
    return subprocess.run(
        [sys.executable, misbehaving.__file__, *map(str, arguments)],
        capture_output=True,
        timeout=120,
        env=os.environ | environment,
        check=False,
    )


# The help


def test_the_help_has_every_command_under_its_heading_on_one_screen():
    done = depthface("--help")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert len(lines) <= 45
    assert max(map(len, lines)) <= 80
    heading = ""
    shown = {}
    for line in lines:
        if line.endswith(":") and not line.startswith(" "):
            heading = line[:-1]
        elif heading in GROUPS and line.startswith("  "):
            shown[line.split()[0]] = heading
    assert {name: COMMANDS[name].group for name in COMMANDS} == {name: shown[name] for name in COMMANDS}


def test_the_help_imports_nothing_that_it_does_not_need():
    code = (
        "import sys; from depthface.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(done.stderr.split())
    assert "click" in modules
    packages = {entry.target.partition(".")[0] for entry in COMMANDS.values()}
    assert not modules & {*packages, "numpy", "PIL", "tritonclient", "importlib.metadata", "logging", "rich", "torch"}


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_what_its_row_says(name, monkeypatch):
    entry, command = COMMANDS[name], LOADED[name]
    module, _, attribute = entry.target.partition(":")
    assert command is getattr(importlib.import_module(module), attribute)
    assert (entry.name, command.name) == (name, name)
    assert command.help
    assert entry.group in GROUPS
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert entry.extra in extras
    # Its example: a command line that click accepts as it stands.
    monkeypatch.chdir(ROOT)
    example = re.search(r"Example: (.*)", command.help)
    assert example is not None
    program, first, *arguments = shlex.split(re.split(r"&&|\|\|", example[1])[0])
    assert (program, first) == ("depthface", name)
    command.make_context(name, arguments)


def test_every_command_of_ours_has_its_row():
    rooms = [*ROOT.glob("*/depthface_*/**/cli.py"), *ROOT.glob("*/depthface_*/**/cli/*.py")]
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts[1:]) for path in rooms}
    found: dict[str, str] = {}
    for name in modules:
        if name.startswith("depthface_bench"):
            continue
        module = importlib.import_module(name.removesuffix(".__init__"))
        commands = [each for each in getattr(module, "__all__", ()) if isinstance(getattr(module, each), click.Command)]
        found |= {f"{module.__name__}:{each}": each for each in commands}
    assert len(found) > 10
    assert set(found) == {entry.target for entry in COMMANDS.values()}


@pytest.mark.parametrize(
    ("missing", "command", "extra"),
    [
        ("urllib3", "models --url 127.0.0.1:9", "client"),
        ("numpy", "depth --help", "client"),
        ("rich", "export x", "export"),
    ],
)
def test_a_command_whose_packages_are_not_installed_says_what_to_install(missing, command, extra):
    code = f"import sys; sys.modules[{missing!r}] = None; from depthface.cli import main; main({command.split()!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.endswith(f"pip install 'depthface[{extra}]'.")


def test_a_command_that_is_mistyped_is_guessed():
    done = depthface("helth")
    assert done.returncode == 2
    assert "Did you mean `health`?" in done.stderr


def test_a_shell_completes_commands_and_options_without_importing_them_all():
    def complete(words: str, at: int) -> str:
        environment = {"_DEPTHFACE_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(at)}
        return depthface(**environment).stdout

    assert complete("depthface heal", 1).split() == ["plain,health"]
    assert complete("depthface depth --o", 2).split() == ["plain,--out"]
    assert "complete" in depthface(_DEPTHFACE_COMPLETE="bash_source").stdout


# How it ends


def test_the_exit_codes_of_success_failure_and_wrong_usage():
    assert depthface("--version").returncode == 0
    assert depthface("health", "--url", "127.0.0.1:9").returncode == 1
    assert depthface("depth").returncode == 2
    assert depthface("--no-such-option").returncode == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_who_interrupts_gets_130(number):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"127.0.0.1:{silent.getsockname()[1]}"
        process = subprocess.Popen(
            [*COMMAND, "health", "--url", url], stderr=subprocess.PIPE, text=True,
            preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # whoever began the tests may ignore it
        )  # fmt: skip
        silent.settimeout(120)
        connection, _ = silent.accept()
        with connection:
            assert connection.recv(1)  # the request
            process.send_signal(number)
            _, said = process.communicate(timeout=300)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "Interrupted."
    assert "Traceback" not in said  # gevent says KeyboardInterrupt itself


def test_a_command_under_nohup_outlives_its_terminal():
    code = (
        "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from depthface.cli import main\n"
        "try: main(['--version'])\n"
        "except SystemExit: print(signal.getsignal(signal.SIGHUP) == signal.SIG_IGN)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "True"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_waits_for_what_is_not_to_be_cut_and_one_that_is_ignored_is_none(number):
    code = (
        "import signal, sys; from depthface_export.interrupts import hold_signals\n"
        "number, handler = int(sys.argv[1]), getattr(signal, sys.argv[2])\n"
        "signal.signal(number, handler)\n"
        "try:\n"
        "    with hold_signals() as waiting:\n"
        "        signal.raise_signal(number)\n"
        "        print(*waiting)\n"
        "except KeyboardInterrupt: print('interrupted')"
    )
    for handler, says in (("default_int_handler", [str(int(number)), "interrupted"]), ("SIG_IGN", [""])):
        command = [sys.executable, "-c", code, str(int(number)), handler]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines() == says


def test_what_nobody_foresaw_is_one_sentence_and_where_to_report_it():
    done = misbehave("bug")
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("Error: depthface met something that it does not expect (RuntimeError: the cat sat on it).")
    assert line.endswith(f"to {ISSUES}.")


@pytest.mark.parametrize("arguments", [("hungry",), ("hungry", "--library")], ids=" ".join)
def test_a_lack_of_memory_is_one_sentence_and_what_to_do(arguments):
    done = misbehave(*arguments)
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("Error: There is not enough memory for this.")
    assert "smaller photo" in line


@pytest.mark.parametrize("arguments", [("--debug", "bug"), ("bug", "--debug")])
def test_debug_shows_the_traceback_wherever_it_stands(arguments):
    said = misbehave(*arguments).stderr.decode()
    assert "Traceback" in said
    assert "RuntimeError: the cat" in said
    assert said.splitlines()[-1].startswith("Error: ")


def test_an_error_of_the_system_names_its_file(tmp_path):
    done = misbehave("unreadable", tmp_path / "missing.jpg")
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert f"{tmp_path / 'missing.jpg'}: No such file or directory." in line


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "cp437", "utf-8", "utf-16"])
def test_no_encoding_of_the_terminal_stops_a_command(encoding):
    done = misbehave("odd", PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert "done" in done.stdout.decode(encoding, "replace")


def test_a_terminal_that_can_show_a_name_shows_it():
    said = misbehave("odd", PYTHONIOENCODING="utf-8").stdout.decode()
    assert "a → b, Zoë, 写真, ?.jpg" in said


@pytest.mark.parametrize("arguments", [("many",), ("many", "--code", "3"), ("--help",), ("odd", "--help")])
def test_a_reader_who_has_seen_enough_ends_it_quietly(arguments):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, misbehaving.__file__, *arguments],
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=120,
        check=False,
    )
    os.close(writing)
    assert done.returncode == 1
    assert done.stderr == b""


@pytest.mark.parametrize("arguments", [("many",), ("--help",)])
def test_a_full_disk_behind_the_output_is_a_sentence(arguments):
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, misbehaving.__file__, *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=120,
            check=False,
        )
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert "No space left on device" in line


# The log


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (("logs",), ["WARNING depthface_client.somewhere", "WARNING another.library"]),
        (("-v", "logs"), ["INFO depthface_client.somewhere", "WARNING depthface_client.somewhere"]),
        (("logs", "--verbose"), ["INFO depthface_client.somewhere", "WARNING another.library"]),
        (("logs", "-vv"), ["DEBUG depthface_client.somewhere", "WARNING another.library"]),
    ],
)
def test_the_log_says_warnings_and_more_when_asked(arguments, lines):
    done = misbehave(*arguments)
    said = done.stderr.decode()
    assert done.returncode == 0
    assert all(line in said for line in lines), said
    assert ("INFO depthface" in said) == any("v" in argument for argument in arguments)
    assert "INFO another" not in said
    assert done.stdout == b""
