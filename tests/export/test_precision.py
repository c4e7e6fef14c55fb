"""bf16: the fp32 file, computed by OpenVINO, proven by it and served by it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import get_args

import pytest
from fixtures.machine import HAS_BF16
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from depthface import manifest
from depthface.contract import EXPORTED_CONFIG, GPU_PRECISIONS, Precision
from depthface.errors import ExportError, ParityError
from depthface.families import card_named
from depthface_export import configs, validate

needs_bf16 = pytest.mark.skipif(not HAS_BF16, reason="this processor has no bf16 arithmetic")


def config(folder, name):
    return text_format.Parse((folder / name / EXPORTED_CONFIG).read_text(), pb.ModelConfig())


@needs_bf16
def test_bf16_is_the_fp32_file_proven_by_what_will_serve_it(tiny, tiny_repository, tmp_path, run):
    name = tiny.networks[0].name
    shutil.copytree(tiny_repository, tmp_path, dirs_exist_ok=True)
    fp32 = manifest.read(tmp_path / name / "1")
    assert config(tmp_path, name).backend == "onnxruntime"
    assert config(tmp_path, name).parameters["cpu_runtime"].string_value == "openvino"
    assert [check["case"] for check in fp32.openvino_checks] == [check["case"] for check in fp32.checks]
    assert fp32.openvino_checks != fp32.checks

    assert run(tiny, tmp_path, precision="bf16")[0] == "exported"
    bf16 = manifest.read(tmp_path / name / "1")
    assert bf16.onnx["sha256"] == fp32.onnx["sha256"]
    assert bf16.precision == "bf16"
    # What has only 8 bits of mantissa cannot be as near as fp32: the checks were made by other arithmetic.
    worst = {
        found.precision: max(check["value"] for check in found.checks if check["metric"] == "mean_error")
        for found in (fp32, bf16)
    }
    assert worst["bf16"] > 20 * worst["fp32"]
    # Both ways in which it is served: graphs for any shape, and for one alone, which round otherwise.
    half = len(bf16.checks) // 2
    any_shape, alone = bf16.checks[:half], bf16.checks[half:]
    assert [check["case"] for check in any_shape] == [check["case"] for check in fp32.checks]
    assert [check["case"] for check in alone] == [f"{check['case']}, static graph" for check in any_shape]
    assert [check["value"] for check in alone] != [check["value"] for check in any_shape]

    served = config(tmp_path, name)
    assert (served.backend, served.default_model_filename) == ("openvino", "model.onnx")
    assert served.parameters["HINT_BF16"].string_value == "YES"
    # NVIDIA's OpenVINO backend takes batches of exactly max_batch_size, so the batch is a dimension like others.
    assert (served.max_batch_size, list(served.input[0].dims)) == (0, [-1, -1, -1, 3])

    assert run(tiny, tmp_path)[0] == "exported"
    assert config(tmp_path, name).backend == "onnxruntime"
    assert (config(tmp_path, name).max_batch_size, list(config(tmp_path, name).input[0].dims)) == (8, [-1, -1, 3])


def test_a_pack_in_bf16_leaves_the_networks_in_fp32_that_need_it():
    card = card_named("buffalo_l")
    exported = configs.exported_configs(card, "bf16", "somewhere")
    backends = {
        network.name.removeprefix("face_buffalo_l_"): exported[network.name].backend for network in card.networks
    }
    assert backends == {
        "detector": "openvino",
        "recognizer": "openvino",
        "landmarks_106": "onnxruntime",
        "landmarks_68": "onnxruntime",
        "attributes": "onnxruntime",
    }
    # Only the pipeline asks the recogniser: as many faces as there are, the batch a dimension like others.
    recognizer = exported["face_buffalo_l_recognizer"]
    assert (recognizer.max_batch_size, list(recognizer.input[0].dims)) == (0, [-1, 112, 112, 3])


def test_a_cpu_takes_requests_one_by_one_and_a_gpu_in_batches():
    card = card_named("depth_anything_v2_small")
    (network,) = card.networks

    def sizes(**options):
        config = configs.exported_configs(card, "fp32", "somewhere", **options)[network.name]
        assert config.max_batch_size == 8  # of a request, in any case
        return config.dynamic_batching.preferred_batch_size

    assert sizes() == [1]
    assert sizes(on_gpu=True) == []
    assert sizes(with_engine=frozenset({network.name})) == []


def test_what_is_for_processors_stays_on_one_beside_a_gpu():
    """CUDA would compute int8 too, and nothing has compared that."""

    def exported(name, precision):
        return configs.exported_configs(card_named(name), precision, "somewhere", on_gpu=True)

    depth = card_named("depth_anything_v2_small")
    alone = configs.exported_configs(depth, "fp32", "somewhere")
    for precision in get_args(Precision):
        found = exported(depth.name, precision)
        (network,) = (found[one.name] for one in depth.networks)
        on_gpu = precision in GPU_PRECISIONS
        (group,) = network.instance_group
        assert group.kind == (group.KIND_AUTO if on_gpu else group.KIND_CPU), precision
        times = configs.PIPELINES_FOR_A_GPU if on_gpu else 1
        assert found[depth.name].instance_group[0].count == times * alone[depth.name].instance_group[0].count
    int8 = exported(depth.name, "int8")["depth_anything_v2_small_network"]
    assert int8.parameters["cpu_runtime"].string_value == "openvino"
    assert int8.dynamic_batching.preferred_batch_size == [1]
    # A network that keeps fp32 goes to the GPU all the same.
    group, kept = (exported("buffalo_l", "bf16")[f"face_buffalo_l_{kind}"] for kind in ("recognizer", "landmarks_106"))
    assert group.instance_group[0].kind == group.instance_group[0].KIND_CPU
    assert kept.instance_group[0].kind == kept.instance_group[0].KIND_AUTO


def test_on_a_cpu_openvino_computes_what_it_computes_quicker():
    def by_openvino(name, precision="fp32", **options):
        exported = configs.exported_configs(card_named(name), precision, "somewhere", **options)
        return {name for name, config in exported.items() if "cpu_runtime" in config.parameters}

    network = "depth_anything_v2_small_network"
    assert by_openvino("depth_anything_v2_small") == by_openvino("depth_anything_v2_small", "int8") == {network}
    assert by_openvino("depth_anything_v2_small", "fp16") == set()
    assert by_openvino("depth_anything_v2_small", on_gpu=True) == set()
    assert by_openvino("depth_anything_v2_small", with_engine=frozenset({network})) == set()
    assert by_openvino("buffalo_l") == {"face_buffalo_l_recognizer"}
    assert by_openvino("buffalo_l", on_gpu=True) == set()


def test_what_openvino_does_not_hold_is_left_to_onnx_runtime(tiny, tmp_path, run, monkeypatch):
    """Also by the next export, which finds nothing to do."""
    runner = validate.runner

    def a_little_off(model, precision="fp32", *, by_openvino=False):
        run = runner(model, precision, by_openvino=by_openvino)
        return (lambda inputs: {"depth": run(inputs)["depth"] * 1.001}) if by_openvino else run

    monkeypatch.setattr(validate, "runner", a_little_off)
    name = tiny.networks[0].name
    outcome, lines = run(tiny, tmp_path)
    assert outcome == "exported"
    assert any("not by OpenVINO" in line for line in lines)
    assert manifest.read(tmp_path / name / "1").openvino_checks is None
    assert "cpu_runtime" not in config(tmp_path, name).parameters
    assert run(tiny, tmp_path)[0] == "unchanged"
    assert "cpu_runtime" not in config(tmp_path, name).parameters


@needs_bf16
def test_a_static_graph_that_does_not_equal_the_reference_fails_the_export(tiny, tmp_path, run, monkeypatch):
    runner = validate.runner_of_static_graphs

    def off(model, report):
        run = runner(model, report)
        return lambda inputs: {"depth": -run(inputs)["depth"]}

    monkeypatch.setattr(validate, "runner_of_static_graphs", off)
    with pytest.raises(ParityError, match="static graph"):
        run(tiny, tmp_path, precision="bf16")
    assert not (tmp_path / tiny.networks[0].name).exists()


def test_a_processor_without_bf16_is_told_so(tiny, tmp_path, run, monkeypatch):
    from depthface.openvino import openvino

    class Without:
        def get_property(self, name):
            return openvino.Type.f32

    monkeypatch.setattr(openvino.Core, "compile_model", lambda *_: Without())
    with pytest.raises(ExportError, match="no bf16 arithmetic"):
        run(tiny, tmp_path, precision="bf16")
    assert not (tmp_path / tiny.networks[0].name).exists()


def test_a_precision_that_a_card_has_no_tolerance_for_is_refused(tmp_path, run):
    with pytest.raises(ExportError, match="fp32 or bf16, not in fp16"):
        run(card_named("buffalo_l"), tmp_path, precision="fp16", accepts_license=True)


@needs_bf16
def test_what_proves_bf16_gives_what_onnx_runtime_gives_but_for_rounding(tiny, tiny_repository):
    import numpy as np

    path = tiny_repository / tiny.networks[0].name / "1" / "model.onnx"
    pixels = np.random.default_rng(0).integers(0, 256, (2, 140, 168, 3), np.uint8)
    fp32, bf16 = (validate.runner(path, precision)({"pixels": pixels})["depth"] for precision in ("fp32", "bf16"))
    assert bf16.shape == fp32.shape
    assert 1e-4 < np.abs(bf16 - fp32).mean() / np.ptp(fp32) < 0.1


def test_openvino_reports_nothing_home():
    """Its import would fork a process that sends statistics."""
    code = (
        "import sys, time\n"
        "seen = []\n"
        "sys.addaudithook(lambda event, _: seen.append(event))\n"
        "from depthface.openvino import openvino\n"
        "time.sleep(1)\n"
        "sys.exit(' '.join({'os.fork', 'subprocess.Popen', 'socket.connect'}.intersection(seen)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
