"""What the server's own process imports: nothing that computes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from depthface.alone import import_alone

CODE = """
import sys
import depthface_server.cli
heavy = {"grpc", "numpy", "onnxruntime", "openvino", "cv2", "PIL", "aiohttp"} & sys.modules.keys()
assert not heavy, heavy
from depthface.config import ModelConfig
from tritonclient.grpc import model_config_pb2, service_pb2
assert model_config_pb2.ModelConfig is ModelConfig
answer = service_pb2.ModelConfigResponse()
answer.config.CopyFrom(ModelConfig(name="a"))
assert type(answer.config) is ModelConfig
assert answer.config.name == "a"
"""


def test_the_server_imports_no_numpy_and_the_protobuf_of_triton_is_one():
    subprocess.run([sys.executable, "-c", CODE], check=True)


@pytest.mark.parametrize("name", ["no_such_package.part", "tritonclient.grpc.no_such_module", "sys.part"])
def test_what_is_not_there_is_said_as_by_python(name):
    with pytest.raises(ModuleNotFoundError, match="No module named"):
        import_alone(name)


def test_a_module_that_is_imported_already_is_the_same():
    assert import_alone("depthface.alone") is sys.modules["depthface.alone"]
