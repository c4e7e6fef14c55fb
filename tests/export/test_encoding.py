"""Manifests and configs are UTF-8 under every locale: Triton and other machines read them."""

from __future__ import annotations

import os
import subprocess
import sys

CODE = r"""
import sys, warnings
from pathlib import Path

from depthface import config, manifest
from depthface.families import card_named
from depthface_export import configs, staging, texts
from depthface_server.limited import LimitedCopy
from depthface_server.options import Options

warnings.filterwarnings("error", category=EncodingWarning, module="depthface")
repository, copy, origin = Path(sys.argv[1]), Path(sys.argv[2]), "folder Gr\u00f6\u00dfe \u6df1\u5ea6"
card = card_named("depth_anything_v2_small")
made = manifest.Manifest(
    serves={card.name: [card.networks[0].name]}, weights={"origin": origin, "sha256": {}}, license=None,
    precision="fp32", onnx={"sha256": "0"}, tensors={}, exporters={}, checks=[],
)
with staging.stage(repository) as build:
    made.write(build)
    assert manifest.read(build) == made
for _ in range(2):
    texts.write_texts(repository, card, configs.exported_configs(card, "fp32", origin))
LimitedCopy(repository, Options(queue_size=3), copy, limits_ensembles=False)
for folder in (repository, copy):
    assert config.parameters_of(config.of_model(folder / card.name)).weights == origin
"""


def test_what_is_written_is_utf_8_under_every_locale(tmp_path):
    """Under one that has no letter but ASCII's; and nothing is opened in whatever the locale says."""
    done = subprocess.run(
        [sys.executable, "-X", "warn_default_encoding", "-c", CODE, tmp_path / "repository", tmp_path / "copy"],
        env=os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
