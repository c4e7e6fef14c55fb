"""Which variants are measured for given facts, and that each one's repository runs where its name says."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import onnx
import pytest
from fixtures import clip, engines
from fixtures.exporting import traced_once
from tritonclient.grpc import model_config_pb2 as pb

from depthface.config import read as read_config
from depthface.contract import EXPORTED_CONFIG
from depthface.errors import DepthfaceError
from depthface_bench import plain, repositories, run, variants
from depthface_bench.machine import Machine
from depthface_bench.variants import CUDA, TENSORRT, Variant
from depthface_standins.insightface import synthetic

CPU = Machine("x", 2, 8.0, (), False, "")
GPU = Machine("x", 2, 8.0, (), False, "", ("NVIDIA H200",))
EVERY = (Variant("fp32"), Variant("fp32", "cuda"), Variant("fp32", "tensorrt"))


@pytest.mark.parametrize(
    ("machine", "software", "asked", "names"),
    [
        (CPU, (), (), ["fp32", "bf16"]),
        (CPU, (CUDA, TENSORRT), (), ["fp32", "bf16"]),
        (GPU, (), (), ["fp32", "bf16"]),
        (GPU, (CUDA,), (), ["fp32", "bf16", "cuda fp32", "cuda fp16"]),
        (GPU, (TENSORRT,), (), ["fp32", "bf16", "tensorrt fp32", "tensorrt fp16"]),
        (GPU, (CUDA, TENSORRT), ("fp32", "bf16"), ["fp32", "bf16", "cuda fp32", "tensorrt fp32"]),
    ],
    ids=str,
)
def test_the_gpus_are_added_where_all_they_need_is(machine, software, asked, names):
    found = variants.variants(("fp32", "bf16"), asked, machine, software)
    assert [one.name for one in found] == names
    assert found[0] == variants.FP32


def test_what_a_gpu_lacks_is_said():
    assert variants.absent(CPU, ()) == []
    assert variants.absent(GPU, (CUDA, TENSORRT)) == []
    cuda, tensorrt = variants.absent(GPU, ())
    assert cuda.startswith("cuda is not measured") and "make setup-gpu" in cuda
    assert tensorrt.startswith("tensorrt is not measured")


def test_the_machine_is_named_with_its_gpus():
    assert (CPU.slug, CPU.title) == ("x-2-cores", "x, 2 cores, 8 GB")
    assert (GPU.slug, GPU.title) == ("x-2-cores-nvidia-h200", "x, 2 cores, 8 GB, NVIDIA H200")


@pytest.fixture(scope="module")
def prepared(tiny, shared, tmp_path_factory) -> dict[Variant, Path]:
    """A repository for each of `EVERY`, of small networks; a stand-in builds the engines."""
    with traced_once(shared), pytest.MonkeyPatch.context() as patch:
        engines.replace_tensorrt(patch)
        patch.setattr(repositories, "depth_card", lambda: tiny)
        patch.setattr(repositories, "embedding_card", lambda: clip.TINY)
        patch.setattr(repositories, "write_pack", small_pack)
        work = tmp_path_factory.mktemp("work")
        (cpu,) = run.prepare(work, EVERY[:1])[1].values()
        shutil.copytree(cpu, work / "cuda-fp32")  # the same files, so that one export will do for both
        return run.prepare(work, EVERY)[1]


def small_pack(work: Path) -> Path:
    pack = work / repositories.PACK
    pack.mkdir(exist_ok=True)
    networks = synthetic.pack()
    for name in ("det_synthetic.onnx", "w600k_synthetic.onnx"):
        onnx.save(networks[name], pack / name)
    return pack


@pytest.mark.parametrize("variant", EVERY, ids=lambda variant: variant.name)
def test_every_network_runs_where_the_variant_says(prepared, variant):
    folder = prepared[variant]
    configs = [read_config(path) for path in folder.glob(f"*/{EXPORTED_CONFIG}")]
    networks = {config.name: config for config in configs if config.backend in ("onnxruntime", "tensorrt")}
    faces = {f"face_{repositories.PACK}_{kind}" for kind in ("detector", "recognizer")}
    embeddings = {network.name for network in clip.TINY.networks}
    assert set(networks) == {f"{repositories.DEPTH}_network"} | faces | embeddings
    assert repositories.has_faces(folder)
    for config in networks.values():
        (group,) = config.instance_group
        assert config.backend == ("tensorrt" if variant.provider == "tensorrt" else "onnxruntime")
        assert group.kind == (pb.ModelInstanceGroup.KIND_CPU if variant.provider == "cpu" else group.KIND_GPU)
        assert config.parameters["precision"].string_value == variant.precision
    others = [config for config in configs if config.name not in networks]
    assert all(group.kind == group.KIND_CPU for config in others for group in config.instance_group)
    assert (folder / repositories.MEASURED_DEPTH).is_dir()


def test_faces_are_left_out_where_they_cannot_be_had(tmp_path):
    repositories.export_faces(small_pack(tmp_path), tmp_path / "repository", Variant("fp16", "cuda"))
    assert not (tmp_path / "repository").exists()
    assert not repositories.has_faces(tmp_path / "repository")


def floor(repository: Path, network, variant: Variant, stack: ExitStack) -> np.ndarray:
    pixels = np.zeros((1, 70, 56, 3), np.uint8)
    return plain.plain_network(repository, network, variant, 1, stack)({"pixels": pixels}, ["depth"])["depth"]


def test_tensorrts_floor_is_the_engine(prepared, tiny, monkeypatch):
    """The stand-in's engine is spoilt, the ONNX file beside it is not."""
    engines.replace_tensorrt(monkeypatch, spoil=lambda _, outputs: {name: -1 - 0 * a for name, a in outputs.items()})
    (network,) = tiny.networks
    with ExitStack() as stack:
        found = floor(prepared[EVERY[2]], network, EVERY[2], stack)
        beside = floor(prepared[EVERY[2]], network, variants.FP32, stack)
    assert found.shape == beside.shape == (1, 70, 56)
    assert (found == -1).all()
    assert (beside >= 0).all()


def test_the_floor_never_falls_back_to_the_cpu(prepared, tiny):
    if CUDA in variants.here():
        pytest.skip("This ONNX Runtime has CUDA.")
    with pytest.warns(UserWarning, match=CUDA), pytest.raises(DepthfaceError, match="did not start"):
        floor(prepared[EVERY[1]], tiny.networks[0], EVERY[1], ExitStack())
