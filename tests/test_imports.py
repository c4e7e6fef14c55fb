"""A line knows its room by what it imports: the table of the design, kept true over the syntax trees."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [
    path
    for room in ("src", "export", "server", "client", "render", "gateway")
    for path in sorted((ROOT / room).rglob("*.py"))
]

# What is imported, and the only places (path prefixes) that may.
TABLE = {
    "torch": ("src/depthface/families/*/network.py", "src/depthface/families/pretrained.py", "export/"),
    "transformers": ("src/depthface/families/*/network.py", "src/depthface/families/pretrained.py", "export/"),
    "insightface": ("src/depthface/families/*/network.py", "export/depthface_export/weights.py"),
    "onnx": (
        "src/depthface/families/*/network.py",
        "src/depthface/families/insightface/graphs/",
        "export/",
    ),
    "huggingface_hub": ("export/depthface_export/weights.py",),
    "requests": ("export/depthface_export/weights.py",),
    "onnxruntime": (
        "export/depthface_export/int8.py",
        "src/depthface/families/*/network.py",
        "export/depthface_export/validate.py",
        "server/depthface_server/backends/",
    ),
    "openvino": ("src/depthface/openvino.py",),
    "cv2": (
        "src/depthface/image.py",
        "src/depthface/families/*/processing.py",
        "src/depthface/families/*/parity.py",
        "render/",
        "gateway/depthface_gateway/faces/quality.py",
    ),
    "av": ("render/",),
    "pillow_heif": ("src/depthface/decoder.py",),
    "simplejpeg": ("src/depthface/image.py",),
    "isal": ("src/depthface/image.py",),
    "tokenizers": ("src/depthface/families/*/processing.py", "export/depthface_standins/"),
    "cykooz_resizer": ("src/depthface/image.py",),
    "triton_python_backend_utils": (
        "server/depthface_server/pipeline.py",
        "server/depthface_server/backend.py",
        "server/depthface_server/reporting.py",
        "server/depthface_server/backends/",
    ),
    "tritonclient.grpc": (
        "client/depthface_client/_transports/",
        "src/depthface/config.py",
        "export/depthface_export/",
    ),
    "tritonclient.http": ("client/depthface_client/_transports/",),
    "google.protobuf": ("client/depthface_client/_transports/", "src/depthface/config.py"),
    "rich": ("export/depthface_export/cli.py", "export/depthface_export/progress.py"),
    "urllib3": ("client/depthface_client/_transports/",),
    "aiohttp": ("client/depthface_client/_transports/", "gateway/"),
    "grpc": ("client/depthface_client/_transports/",),
    "tensorrt": ("export/depthface_export/tensorrt.py",),
    "polygraphy": ("export/depthface_export/tensorrt.py",),
    "fastapi": ("gateway/",),
    "orjson": ("gateway/",),
    "multipart": ("gateway/depthface_gateway/forms.py",),
    "sqlalchemy": ("gateway/",),
    "alembic": ("gateway/",),
    "jwt": ("gateway/",),
    "prometheus_client": ("gateway/",),
    "click": ("*/cli.py", "client/depthface_client/cli/"),
    "depthface_export": ("export/depthface_export/",),
    "depthface_standins": ("export/",),
    "depthface_server": ("server/",),
    "depthface_client": ("client/", "render/", "gateway/"),
    "depthface_render": ("render/", "gateway/"),
    "depthface_gateway": ("gateway/",),
}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def allowed(path: Path, places: tuple[str, ...]) -> bool:
    relative = path.relative_to(ROOT)
    return any(relative.match(place) if "*" in place else relative.as_posix().startswith(place) for place in places)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_keep_to_their_rooms(path):
    strangers = {
        name
        for name in imported(path)
        for package, places in TABLE.items()
        if (name == package or name.startswith(package + ".")) and not allowed(path, places)
    }
    assert not strangers


def test_the_client_pulls_in_nothing_heavy():
    code = "import depthface_client, depthface_client.cli, sys; print(*sys.modules)"
    modules = set(subprocess.check_output([sys.executable, "-c", code], text=True).split())
    assert not modules & {"torch", "cv2", "transformers", "onnx", "onnxruntime", "rich", "scipy"}


def test_the_command_line_imports_a_subcommand_only_when_it_is_called():
    code = "import depthface.cli, sys; print(*sys.modules)"
    modules = set(subprocess.check_output([sys.executable, "-c", code], text=True).split())
    assert not modules & {"tritonclient", "torch", "numpy", "depthface_client", "depthface_export"}
