"""Targets of the Makefile whose effect no other test sees."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_both_builds_of_onnx_runtime_go_before_the_one_for_gpus_comes():
    """They share their files: with one of them left in pip's books, what is there would not be whole."""
    text = (ROOT / "Makefile").read_text()
    (recipe,) = re.findall(r"^setup-gpu:.*\n((?:[\t#].*\n)+)", text, re.MULTILINE)
    away, anew = (line for line in recipe.splitlines() if line.startswith("\t"))
    assert away.endswith(" uninstall --quiet --yes onnxruntime onnxruntime-gpu")
    assert " install " in anew
    assert "'.[gpu]'" in anew


def test_clean_takes_what_was_made_and_leaves_what_is_committed_or_the_users(tmp_path):
    kept = {
        "Makefile",
        ".gitignore",
        "model_repository/depth_anything_v2_small/config.pbtxt",
        "model_repository/face_detection_buffalo_l/config.pbtxt",
        "model_repository/mine/config.pbtxt",
    }
    made = {
        "sbom.json",
        "demo/depth.png",
        "model_repository/.export/build-1/model.onnx",
        "model_repository/depth_anything_v2_small/configs/exported.pbtxt",
        "model_repository/depth_anything_v2_small_network/1/model.onnx",
        "model_repository/depth_anything_v2_small_network/1/manifest.json",
        "model_repository/clip_vit_b_32_laion2b_image/config.pbtxt",
        "model_repository/face_detection_buffalo_s/config.pbtxt",
    }
    for name in kept | made:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    for name in ("Makefile", ".gitignore"):
        shutil.copy(ROOT / name, tmp_path / name)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True)
    files = (path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert {str(path) for path in files if path.parts[0] != ".git"} == kept
