"""The site of docs/: it builds without a warning, its commands and code run, and it says what is so."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml

from depthface.cli import group
from depthface.commands import COMMANDS
from depthface.limits import Limits

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
TEXTS = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it: a broken link, anchor or reference is an error."""
    folder: Path = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [Path(sys.executable).with_name("mkdocs"), "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def text_of(page: Path) -> str:
    return re.sub(r"<[^>]+>", "", page.read_text())


def test_every_page_is_in_the_site_and_in_its_contents(site):
    listed = yaml.safe_load((ROOT / "mkdocs.yml").read_text().replace("!!python", ""))["nav"]
    found: list[str] = []
    while listed:
        entry = listed.pop()
        if isinstance(entry, str):
            found.append(entry)
        else:
            listed += next(iter(entry.values()))
    assert sorted(found) == sorted(str(path.relative_to(ROOT / "docs")) for path in PAGES)
    for name in found:
        stem = name.removesuffix(".md")
        assert (site / ("" if stem == "index" else stem) / "index.html").is_file()


def test_the_page_of_commands_has_each_with_its_example(site):
    text = text_of(site / "cli" / "index.html")
    for name in COMMANDS:
        assert f"Usage: depthface {name} " in text
        assert f"Example: depthface {name}" in text


def test_the_reference_has_the_public_names_of_the_client(site):
    import depthface_client

    pages = "".join(path.read_text() for path in (site / "api").rglob("index.html"))
    missing = [name for name in depthface_client.__all__ if f">{name}<" not in pages and f".{name}" not in pages]
    assert missing == []


def variables_said(*names: str) -> set[str]:
    pages = "".join((ROOT / "docs" / name).read_text() for name in names)
    return set(re.findall(r"`((?:DEPTHFACE|XDG|HF)_[A-Z_]+)(?:=[^`]*)?`", pages))


def variables_read(*rooms: str) -> set[str]:
    read: set[str] = set()
    for room in rooms:
        for path in (ROOT / room).rglob("*.py"):
            text = path.read_text().replace('f"{_PREFIX}', '"DEPTHFACE_GATEWAY_')
            read |= set(re.findall(r"\"(DEPTHFACE_[A-Z_]*[A-Z])\b", text))
    return read


def test_the_page_of_the_client_has_every_variable_that_is_read():
    read = variables_read("src", "client", "export", "server") | Limits().environment().keys()
    internal = {name for name in read if re.search(r"DEPTHFACE_(RECOVERIES|RESTARTS|IDLE_MINUTES)", name)}
    assert read - internal <= variables_said("client.md")


def test_the_pages_of_the_gateway_have_every_variable_that_it_reads():
    read = variables_read("gateway")
    assert {"DEPTHFACE_GATEWAY_ALIASES", "DEPTHFACE_GATEWAY_DATA"} <= read
    assert read <= variables_said("gateway.md", "jobs.md")


def commands_said(text: str) -> list[str]:
    """What follows `depthface` in each command of a page, in a block or in a sentence, up to a pipe or a comment."""
    in_blocks = "\n".join(re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)).replace("\\\n", " ")
    of_blocks = re.findall(r"(?:^|\| )depthface ([^#|\n]+)", in_blocks, re.MULTILINE)
    return of_blocks + [line for line in re.findall(r"`depthface ([^`|]+)", text) if not line.startswith("COMMAND")]


def test_commands_and_options_that_the_pages_name_exist():
    commands = {name: group.get_command(click.Context(group), name) for name in COMMANDS}
    of_all = {*options_of(group), "--help"}
    for page in TEXTS:
        for line in commands_said(page.read_text()):
            name, *_ = line.split()
            known = of_all if name.startswith("-") else of_all | options_of(commands[name])
            assert set(re.findall(r"(?<!\S)--[a-z][a-z-]*", line)) <= known, (page.name, line)


def options_of(command: click.Command | None) -> set[str]:
    assert command is not None
    return {option for param in command.params for option in (*param.opts, *param.secondary_opts)}


def test_every_make_target_that_is_named_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in TEXTS:
        named = set(re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.MULTILINE))
        assert named <= targets, page.name
        assert named or page.name not in ("README.md", "CONTRIBUTING.md")
