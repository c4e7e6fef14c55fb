"""Runs perf_analyzer on a model that takes a photo: writes the photo in its input format, and becomes it.

Stands alone, for NVIDIA's SDK image. Options that are not known here are perf_analyzer's.
"""

import argparse
import base64
import json
import os
import struct
import tempfile
from pathlib import Path


def document(photo: bytes) -> dict[str, list[object]]:
    """perf_analyzer's input for one encoded photo: BYTES carry their length in front, 4 bytes, little-endian."""
    content = base64.b64encode(struct.pack("<I", len(photo)) + photo).decode()
    return {"data": [{"image": {"content": {"b64": content}, "shape": [1]}}]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photo", type=Path, required=True)
    parser.add_argument("--url", default="127.0.0.1:8000")
    parser.add_argument("--model", default="depth_anything_v2_small")
    known, others = parser.parse_known_args()
    with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False) as file:
        json.dump(document(known.photo.read_bytes()), file)
    options = ["-m", known.model, "-u", known.url, "--input-data", file.name, *others]
    # The server itself is asked, and no proxy: Docker hands its own proxy variables to every container.
    os.execvpe("perf_analyzer", ["perf_analyzer", *options], os.environ | {"no_proxy": "*"})


if __name__ == "__main__":
    main()
