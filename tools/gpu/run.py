"""`make gpu-run`: on a GPU machine without a network, join the pieces, install them aside, check, and measure.

Everything that is found is on the disk as soon as it is found: `records.jsonl`, and after each step `results.json` and
`results.md`, in --results. Without a GPU, or with --rehearse, the same steps run on the CPU with small counts.

This file and what it imports before the environment is there need the standard library alone.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from install import LIBPYTHON, ROOT, has_libpython, install
from pieces import PackError, join
from steps import Book, Step, go

# On a GPU, about; the sum and the start of the machine, with the transfers, are to be within a quarter of an hour.
STEPS = (
    ("check", "What there is", 10),
    ("files", "Networks exported here, with seeded random weights", 85),
    ("depth", "Depth through the embedded Triton", 80),
    ("faces", "Faces: their networks, and through the embedded Triton", 90),
    ("small", "Depth Anything V2 Small alone", 85),
    ("larger", "Base and Large alone", 70),
    ("peak", "The device's peak, and the networks' shares of it", 30),
    ("next", "What is next", 15),
)
SECONDS = 540


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    build = ROOT / "build" / "gpu"
    parser.add_argument("--pieces", type=Path, default=build / "pieces", help="where the pieces are (build/gpu/pieces)")
    parser.add_argument("--work", type=Path, default=build / "made", help="the environment, the networks, the log")
    parser.add_argument("--results", type=Path, default=build / "results", help="what is found (build/gpu/results)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"for everything ({SECONDS})")
    parser.add_argument("--rehearse", action="store_true", help="as on a machine without a GPU")
    parser.add_argument("--only", help="steps to run, with commas: " + ",".join(name for name, _, _ in STEPS))
    parser.add_argument("--installed", action="store_true", help="take the environment of the last run")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    for name in ("pieces", "work", "results"):
        setattr(chosen, name, getattr(chosen, name).absolute())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if chosen.step:
        _step(chosen)
    else:
        _run(chosen)


def _run(chosen: argparse.Namespace) -> None:
    until = time.time() + chosen.seconds
    known = [name for name, _, _ in STEPS]
    wanted = chosen.only.split(",") if chosen.only else known
    if unknown := sorted(set(wanted) - set(known)):
        raise SystemExit(f"There is no step {', '.join(unknown)}. Choose from {', '.join(known)}.")
    if not chosen.rehearse and not _has_gpu():
        print("There is no NVIDIA GPU here (nvidia-smi shows none): this is a rehearsal.", flush=True)
        chosen.rehearse = True
    if not has_libpython():  # before anything is spent on what cannot run
        lack = f"There is no {LIBPYTHON} here (Debian and Ubuntu: apt install {LIBPYTHON.partition('.so')[0]})."
        print(f"{lack} The embedded Triton cannot run: only the networks are measured.", flush=True)
    book = Book(chosen.results)
    book.forget(wanted if chosen.installed else ["install", *known])
    python = chosen.work / "environment" / "bin" / "python"
    if not chosen.installed:
        try:
            _install(chosen, book)
        except (PackError, OSError, subprocess.SubprocessError) as error:
            raise SystemExit(str(error)) from error
    elif not python.exists():
        raise SystemExit(f"There is no environment in {chosen.work}. Run this without --installed.")
    passed = ["--work", str(chosen.work), "--results", str(chosen.results)]
    passed += ["--rehearse"] if chosen.rehearse else []
    steps = [
        Step(name, title, 0 if chosen.rehearse else needs_s, (str(python), __file__, "--step", name, *passed))
        for name, title, needs_s in STEPS
        if name in wanted
    ]
    try:
        go(steps, book, chosen.work / "log.txt", lambda: until - time.time())
    finally:
        print(book.write().read_text())


def _install(chosen: argparse.Namespace, book: Book) -> None:
    begins = time.monotonic()
    for what, do in (
        ("joined", lambda: join(chosen.pieces, chosen.work / "files")),
        ("installed", lambda: install(sorted((chosen.work / "files").iterdir()), chosen.work / "environment")),
    ):
        started = time.monotonic()
        do()
        book.add("install", "fact", name=f"{what}, seconds", value=round(time.monotonic() - started, 1))
    seconds = round(time.monotonic() - begins, 1)
    book.add("install", "step", title="Installed aside", seconds=seconds, state="done")
    book.write()


def _has_gpu() -> bool:
    try:
        done = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return False
    return "GPU 0" in done.stdout


def _step(chosen: argparse.Namespace) -> None:
    """In the environment: do one step, or one job of the step that exports."""
    import warnings

    warnings.filterwarnings(
        "ignore", category=FutureWarning
    )  # insightface and transformers warn of each other's future
    from setting import Setting

    from depthface.cores import Cores

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    setting = Setting(
        chosen.step, Book(chosen.results), chosen.work, not chosen.rehearse, Cores.found().count, chosen.until
    )
    if chosen.job:
        import files

        return files.export(setting, chosen.job)
    if chosen.step == "check":
        import checks

        return checks.check(setting)
    if chosen.step == "files":
        import files

        return files.export_all(setting)
    if chosen.step in ("small", "larger"):
        import networks

        return {"small": networks.small, "larger": networks.larger}[chosen.step](setting)
    if chosen.step == "depth":
        import serving

        return serving.depth(setting)
    if chosen.step == "faces":
        import files
        import networks
        import serving

        with setting.part("the networks of faces"):
            networks.faces(setting, files.pack_of(setting))
        return serving.faces(setting)
    import peak

    return {"peak": peak.share_of_peak, "next": peak.bottleneck}[chosen.step](setting)


if __name__ == "__main__":
    main()
