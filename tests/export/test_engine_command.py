"""What `export --engine` says and shows: its command, what it lacks, a build that fails, that is stopped, that goes on.

The bindings of TensorRT are the real ones where they are named; a builder has no GPU here.
"""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from fixtures import engines, tensorrt_bindings
from fixtures.exporting import job_of
from fixtures.imports import HEAVY, imported_by
from fixtures.serving import depthface

from depthface import machine
from depthface.errors import EngineError, ServeError
from depthface.families import card_named
from depthface.spec import EngineOptions
from depthface_export import pipeline
from depthface_export.cli import export
from depthface_export.job import Engines
from depthface_export.progress import Display


def test_the_command_that_is_kept_is_the_one_that_was_typed(tmp_path):
    card = card_named("buffalo_l")
    options = EngineOptions(version_compatible=True, hardware_compatible="ampere_plus", workspace_mib=512)
    engines_wanted = Engines(options, frozenset({"face_buffalo_l_detector"}), engines.NoPhases())
    typed = job_of(card, tmp_path, "hub", accepts_license=True, engines=engines_wanted).command
    assert " ".join(typed) == (
        "depthface export buffalo_l --weights hub --precision fp32 --accept-license --engine "
        "--without-engine face_buffalo_l_detector --version-compatible --hardware-compatible ampere_plus "
        "--workspace-mib 512"
    )
    # And it is one that the command line takes: here it gets as far as finding no GPU.
    done = depthface(*typed[1:], "--repository", tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "TensorRT" in done.stderr


def test_without_tensorrt_an_engine_is_refused_at_once_in_one_sentence(tmp_path):
    """Before anything is imported that the work would be done with."""
    arguments = ("export", "depth_anything_v2_small", "--weights", "random", "--repository", tmp_path, "--engine")
    done, packages = imported_by(*arguments)
    assert "depthface_export" in packages
    assert not packages & HEAVY
    assert done.returncode == 1
    assert done.stderr.startswith("Error: TensorRT's Python package is not here")
    assert not list(tmp_path.iterdir())
    # With TensorRT and no GPU, the GPU is what is missing.
    here = tensorrt_bindings.environment(tmp_path / "here", version=110400, gpu=None)
    here["PYTHONPATH"] = str(tensorrt_bindings.folder(11))
    done = depthface(*arguments, **here)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: There is no NVIDIA GPU here")


def test_a_cache_that_cannot_be_written_is_told_at_once_and_by_its_name(tmp_path):
    """Not after minutes, as a disk of the repository that is full."""
    here = tensorrt_bindings.environment(tmp_path, version=110400)
    here["PYTHONPATH"] = str(tensorrt_bindings.folder(11))
    (tmp_path / "cache").write_text("no folder")
    arguments = ("export", "depth_anything_v2_small", "--weights", "random", "--engine")
    done = depthface(*arguments, "--repository", tmp_path / "repository", **here)
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: {tmp_path}/cache/depthface/tensorrt cannot be written (Not a directory)")
    assert "XDG_CACHE_HOME" in done.stderr
    assert not (tmp_path / "repository").exists()


def test_a_cache_that_is_there_and_read_only_cannot_be_written_either(monkeypatch, tmp_path):
    from depthface_export import tensorrt

    def read_only(dir: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(dir / "x"))

    (tmp_path / "depthface" / "tensorrt").mkdir(parents=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(machine, "read", lambda: engines.H200)
    monkeypatch.setattr(tensorrt, "_tensorrt", lambda: None)
    assert tensorrt.require() == engines.H200
    monkeypatch.setattr(tensorrt.tempfile, "TemporaryFile", read_only)
    with pytest.raises(ServeError, match=r"depthface/tensorrt cannot be written \(Read-only file system\)"):
        tensorrt.require()


def test_options_of_engines_need_engine():
    done = depthface("export", "depth_anything_v2_small", "--optimization-level", "5")
    assert done.returncode == 2
    assert "need --engine" in done.stderr


def test_a_tensorrt_that_cannot_build_says_why_and_how_to_go_on(tmp_path):
    """The real Polygraphy under the real bindings, whose builder is null: nothing is written."""
    (tmp_path / "model.onnx").write_bytes(b"")
    code = (
        "from pathlib import Path; import sys\n"
        "from depthface.families import card_named; from depthface.spec import EngineOptions\n"
        "from depthface_export import tensorrt; from depthface.errors import EngineError\n"
        "from fixtures.engines import NoPhases; import fixtures.tensorrt_bindings as real\n"
        "import tensorrt_bindings as trt\n"
        "network = card_named('depth_anything_v2_small').networks[0]\n"
        "made = real.stand_in(trt, network)\n"
        "made.builder.build_serialized_network.side_effect = None\n"
        "made.builder.build_serialized_network.return_value = None\n"
        "folder = Path(sys.argv[1])\n"
        "try: tensorrt.engine_from_onnx(folder / 'model.onnx', folder / 'model.plan', network, EngineOptions(), "
        "NoPhases())\n"
        "except EngineError as error: print(error)"
    )
    done = tensorrt_bindings.run_code(11, tmp_path, code, str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("TensorRT 11.4.0.106 cannot build depth_anything_v2_small_network: Invalid Engine")
    assert "--without-engine depth_anything_v2_small_network" in done.stdout
    assert not (tmp_path / "model.plan").exists()


@pytest.mark.parametrize("moment", ["start", "advance", "finish"])
def test_an_interrupt_ends_a_build_and_never_leaves_it_as_an_exception(tmp_path, moment):
    """TensorRT calls our code in the middle of its own: what left it would end the process."""
    (tmp_path / "model.onnx").write_bytes(b"")
    code = (
        "import signal, sys\n"
        "from pathlib import Path\n"
        "from depthface.families import card_named; from depthface.spec import EngineOptions\n"
        "from depthface_export import tensorrt\n"
        "from fixtures.engines import NoPhases; import fixtures.tensorrt_bindings as real\n"
        "import tensorrt_bindings as trt\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "network, phases, told = card_named('depth_anything_v2_small').networks[0], NoPhases(), []\n"
        "setattr(phases, sys.argv[2], lambda *_: signal.raise_signal(signal.SIGINT) or True)\n"
        "def build(definition, config):\n"
        "    monitor = config.progress_monitor\n"
        "    monitor.phase_start('Building Engine', None, 2)\n"
        "    goes_on = monitor.step_complete('Building Engine', 0)\n"
        "    monitor.phase_finish('Building Engine')\n"
        "    told.append(goes_on)\n"
        "made = real.stand_in(trt, network)\n"
        "made.builder.build_serialized_network.side_effect = build\n"
        "files = [Path(sys.argv[1], name) for name in ('model.onnx', 'model.plan')]\n"
        "try: tensorrt.engine_from_onnx(*files, network, EngineOptions(), phases)\n"
        "except KeyboardInterrupt: print('interrupted', told)"
    )
    done = tensorrt_bindings.run_code(11, tmp_path, code, str(tmp_path), moment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"interrupted {[moment == 'finish']}"
    assert not (tmp_path / "model.plan").exists()


def test_progress_is_shown_phase_by_phase():
    from rich.console import Console

    shown = io.StringIO()
    with Display(Console(force_terminal=True, width=100, file=shown), "model") as display:
        display.say("engine: model")
        display.start("Building Engine", None, 4)
        display.start("Timing", "Building Engine", 2)
        assert display.advance("Timing", 0)
        display._progress.refresh()
        display.finish("Timing")
        display.finish("Building Engine")
    text = shown.getvalue()
    assert ("Building Engine" in text, "Timing" in text, "1/2" in text) == (True, True, True)


def test_a_build_is_shown_though_what_is_printed_meanwhile_is_not(monkeypatch, tmp_path):
    from depthface_export import tensorrt

    def build(job):
        with tensorrt._capture_output() as log:
            print("TensorRT's own words")
            job.report("engine: it is built")
            job.engines.phases.start("Building Engine", None, 4)
            job.engines.phases._progress.refresh()
            assert log.getvalue() == "TensorRT's own words\n"
        return "unchanged"

    monkeypatch.setattr(pipeline, "export", build)
    words = ["depth_anything_v2_small", "--weights", "random", "--engine", "--repository", str(tmp_path)]
    done = CliRunner(env={"FORCE_COLOR": "1", "TERM": "xterm"}).invoke(export, words)
    assert done.exit_code == 0, done.output
    assert ("engine: it is built" in done.output, "Building Engine" in done.output) == (True, True)
    assert "TensorRT's own words" not in done.output


def test_a_wrong_version_is_named(monkeypatch):
    import sys
    from types import SimpleNamespace

    from depthface_export import tensorrt

    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="8.6.1"))
    monkeypatch.setattr(machine, "read", lambda: engines.H200)
    with pytest.raises(EngineError, match=r"TensorRT 8\.6\.1 is here"):
        tensorrt.require()
