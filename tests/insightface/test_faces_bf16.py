"""A pack in bf16 through Triton against InsightFace in fp32, within the card's bf16 tolerances."""

from __future__ import annotations

import pytest
from fixtures.faces import AUTO, Reference, analysis_of, ask, crowd, differences
from fixtures.machine import HAS_BF16
from fixtures.photos import encoded, photo
from fixtures.serving import depthface, serving

from depthface.families import card_named
from depthface.processor import multiplies_bf16

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*:FutureWarning:insightface"),
    pytest.mark.skipif(not HAS_BF16, reason="this processor has no bf16 arithmetic"),
]

# The outputs of the networks that run in bf16, and the tolerance of each.
METRICS = {
    "boxes": "box_error_px",
    "keypoints": "keypoint_error_px",
    "scores": "score_error",
    "embeddings": "cosine_loss",
}

_MORE_THAN_FP32 = {"boxes": 0.01, "scores": 1e-5, "embeddings": 1e-5}


def test_a_pack_in_bf16_equals_insightface_within_its_card(face_packs, request, tmp_path):
    pack = face_packs.get("genuine", face_packs["synthetic"])
    data = {f"{count} drawn": crowd(count, 3) for count in (0, 1, 6, 33)}
    if pack.is_genuine:
        data = {path.name: path.read_bytes() for path in request.getfixturevalue("real_photos")}
        data["astronaut"] = encoded(photo(), "PNG")
    done = depthface("export", pack.folder, "--accept-license", "--precision", "bf16", "--repository", tmp_path)
    assert done.returncode == 0, done.stderr
    reference = Reference(pack.folder)
    tolerances = card_named(str(pack.folder)).tolerances["bf16"]
    faces = 0
    worst = dict.fromkeys(METRICS, 0.0)
    with serving(tmp_path) as server:
        for name, one in data.items():
            expected = reference(one, AUTO)
            got = ask(server, analysis_of(pack.name), one, det_size=AUTO)
            faces += len(expected["boxes"])
            for output, value in differences(got, expected, order_tolerance=tolerances["score_error"]).items():
                if output in METRICS:
                    # An embedding feels the detector's rounding too: the keypoints that its crop is cut by.
                    factor = 4 if output == "embeddings" else 1
                    assert value <= factor * tolerances[METRICS[output]], (name, output)
                    worst[output] = max(worst[output], value)
    assert faces >= 3
    # Further off than fp32 ever is, where bf16 is quicker: both the detector and the recogniser are served in it.
    assert {output: worst[output] > least for output, least in _MORE_THAN_FP32.items()} == dict.fromkeys(
        _MORE_THAN_FP32, multiplies_bf16()
    )
