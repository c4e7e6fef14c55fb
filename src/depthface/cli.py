"""The `depthface` command: its help, its errors, its log. The commands themselves are imported when they are called.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import importlib
import math
import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from typing import Any

import click
from click.shell_completion import CompletionItem

from depthface.commands import COMMANDS, GROUPS, Entry
from depthface.errors import DepthfaceError

__all__ = ["Number", "ending_signals", "group", "main", "said"]

_NO_MEMORY = (
    "There is not enough memory for this. Close other programs, use a smaller photo, or use a machine with more memory."
)

_INTERRUPTED = 130  # 128 + SIGINT, as a shell has it


class Number(click.FloatRange):
    """A finite number in a range: click lets NaN through, which is neither above nor below anything."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number, or fail as any other wrong value does."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


@dataclass
class _Run:
    """What is known of this run: its command, once it is found, and what the user asked of all commands."""

    entry: Entry | None = None
    has_traceback: bool = False


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and end the process; an error is one sentence on standard error.

    Args:
        arguments: what follows `depthface`; None for the process's own.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a name or sign that the terminal cannot show is no reason to stop
    if threading.current_thread() is threading.main_thread():
        # What is half done is taken away as after Ctrl-C. Commands that serve have handlers of their own.
        for number in ending_signals():
            if number != signal.SIGINT:  # Python's own, or ignored where a shell has us in the background
                signal.signal(number, signal.default_int_handler)
    run = _Run()
    try:
        code = group.main(arguments, prog_name="depthface", standalone_mode=False, obj=run)
    except click.Abort:
        click.echo("Interrupted.", err=True)
        sys.exit(_INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except SystemExit:
        _flush()
        raise
    except Exception as error:
        if run.has_traceback:
            import traceback

            traceback.print_exc()
        click.echo(f"Error: {said(error, run.entry)}", err=True)
        sys.exit(1)
    _flush()
    sys.exit(code if isinstance(code, int) else 0)


def ending_signals() -> list[signal.Signals]:
    """Return the signals that end a command. SIGHUP, of a terminal that goes, is none where `nohup` ignores it."""
    hang_up = [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGINT, signal.SIGTERM, *hang_up]


def _flush() -> None:
    """Write what standard output still holds; end the process if nobody takes it."""
    if sys.stdout is None:  # closed by whoever started us
        return
    try:
        sys.stdout.flush()
    except OSError as error:
        # Or Python tries again as it ends, and complains.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # what came after us in a pipe has seen enough: that is no error
            click.echo(f"Error: Standard output cannot be written ({error.strerror}).", err=True)
        sys.exit(1)


def said(error: Exception, entry: Entry | None = None) -> str:
    """Return the sentence about an error; for one that nobody foresaw, with where to report it.

    Args:
        entry: of the command that raised it, if that is known.
    """
    if isinstance(error, DepthfaceError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}. Run the command again with --debug to see at what."
    if isinstance(error, ModuleNotFoundError) and entry is not None:
        return (
            f"`depthface {entry.name}` needs the package {error.name}. Install it: pip install "
            f"'depthface[{entry.extra}]'."
        )
    if _is_lack_of_memory(error):
        return _NO_MEMORY
    from importlib.metadata import PackageNotFoundError, metadata

    try:
        urls = dict(line.split(", ", 1) for line in metadata("depthface").get_all("Project-URL") or ())
    except PackageNotFoundError:
        urls = {}
    what = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".: ")
    where = f" to {urls['Issues']}" if "Issues" in urls else ""
    return (
        f"depthface met something that it does not expect ({what}). Run the command again with --debug and send what "
        f"it prints{where}."
    )


def _is_lack_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError):
        return True
    from depthface.picture import says_no_memory  # here, for it imports NumPy and Pillow

    return says_no_memory(error)


class _LazyGroup(click.Group):
    """A group over the table of commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        entry = COMMANDS.get(name)
        if entry is None:
            return None
        module, _, attribute = entry.target.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        if not any(isinstance(param, _Everywhere) for param in command.params):
            command.params += [_debug(), _verbose()]
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not ctx.resilient_parsing:
            import difflib

            close = difflib.get_close_matches(name, COMMANDS, 1)
            meant = f" Did you mean `{close[0]}`?" if close else ""
            ctx.fail(f"There is no command {name!r}.{meant} `depthface --help` lists all.")
        if isinstance(ctx.obj, _Run):  # while a shell completes there is none
            ctx.obj.entry = COMMANDS.get(name)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, COMMANDS))
        for heading in GROUPS:
            rows = [(e.name.ljust(width), e.summary) for e in COMMANDS.values() if e.group == heading]
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        names = [CompletionItem(e.name, help=e.summary) for e in COMMANDS.values() if e.name.startswith(incomplete)]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]


class _Everywhere(click.Option):
    """An option that stands before the name of the command or after it."""


def _debug() -> click.Option:
    return _Everywhere(
        ["--debug"], is_flag=True, expose_value=False, callback=_set_debug, help="Show the traceback of an error."
    )


def _verbose() -> click.Option:
    return _Everywhere(
        ["-v", "--verbose"], count=True, expose_value=False, callback=_set_up_log, help="Log more; twice for all."
    )


def _set_debug(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and isinstance(ctx.obj, _Run):
        ctx.obj.has_traceback = True


def _set_up_log(ctx: click.Context, param: click.Parameter, value: int) -> None:
    """Send what depthface's own packages log, from warnings on or as far as is asked, to standard error."""
    if ctx.resilient_parsing or (ctx.parent is not None and not value):
        return
    import logging

    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    if value:
        level = logging.DEBUG if value > 1 else logging.INFO
        for package in ("depthface", *{entry.target.partition(".")[0] for entry in COMMANDS.values()}):
            logging.getLogger(package).setLevel(level)


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    params=[_debug(), _verbose()],
    epilog="`depthface COMMAND --help` has the options and an example of each.",
)
@click.version_option(package_name="depthface")
def group() -> None:
    """Export, serve and use Depth Anything V2, InsightFace, CLIP and SigLIP 2 on Triton."""
