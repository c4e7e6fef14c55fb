"""A folder's config.json against a card: what was published passes, whatever it leaves out; other numbers do not."""

from __future__ import annotations

import json

import pytest

from depthface.errors import WeightsCorrupt
from depthface.families import card_named, module_of, pretrained

DEPTH, LARGE = "depth_anything_v2_small", "depth_anything_v2_large"
CLIP, LAION, SIGLIP = "clip_vit_b_32", "clip_vit_b_32_laion2b", "clip_siglip2_b_16"

# The first as published; of the others what differs from their classes' defaults, as transformers writes a part.
PUBLISHED = {
    DEPTH: {
        "model_type": "depth_anything",
        "backbone_config": {
            "architectures": ["Dinov2Model"],
            "hidden_size": 384,
            "image_size": 518,
            "model_type": "dinov2",
            "num_attention_heads": 6,
            "out_features": ["stage3", "stage6", "stage9", "stage12"],
            "out_indices": [3, 6, 9, 12],
            "reshape_hidden_states": False,
        },
        "fusion_hidden_size": 64,
        "head_hidden_size": 32,
        "head_in_index": -1,
        "neck_hidden_sizes": [48, 96, 192, 384],
        "patch_size": 14,
        "reassemble_factors": [4, 2, 1, 0.5],
        "reassemble_hidden_size": 384,
    },
    LARGE: {
        "model_type": "depth_anything",
        "backbone_config": {
            "hidden_size": 1024,
            "model_type": "dinov2",
            "num_attention_heads": 16,
            "num_hidden_layers": 24,
            "out_indices": [5, 12, 18, 24],
        },
        "depth_estimation_type": "relative",
        "fusion_hidden_size": 256,
        "max_depth": None,
        "neck_hidden_sizes": [256, 512, 1024, 1024],
    },
    CLIP: {"model_type": "clip", "text_config": {"eos_token_id": 2}, "text_config_dict": None, "vision_config": {}},
    LAION: {"model_type": "clip", "text_config": {"hidden_act": "gelu"}, "vision_config": {"hidden_act": "gelu"}},
    SIGLIP: {
        "model_type": "siglip",
        "text_config": {"model_type": "siglip_text_model", "vocab_size": 256000},
        "vision_config": {"model_type": "siglip_vision_model"},
    },
}

OTHERS = [
    (DEPTH, "", "depth_estimation_type", "metric"),
    (DEPTH, "", "reassemble_factors", [4, 2, 1, 1]),
    (DEPTH, "backbone_config", "num_attention_heads", 12),
    (DEPTH, "backbone_config", "layer_norm_eps", 0.001),
    (DEPTH, "backbone_config", "out_indices", [9, 10, 11, 12]),
    (DEPTH, "backbone_config", "apply_layernorm", False),
    (CLIP, "text_config", "vocab_size", 30522),
    (CLIP, "text_config", "num_attention_heads", 16),
    (CLIP, "vision_config", "num_attention_heads", 16),
    (LAION, "text_config", "hidden_act", "quick_gelu"),
    (SIGLIP, "text_config", "num_attention_heads", 16),
    (SIGLIP, "vision_config", "layer_norm_eps", 0.001),
    (SIGLIP, "vision_config", "hidden_act", "gelu"),
]


def check(name, folder, config):
    card = card_named(name)
    (folder / "config.json").write_text(json.dumps(config))
    pretrained.check_config(card, folder, module_of(card, "network").config_of(card))


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_was_published_passes(tmp_path, name):
    check(name, tmp_path, PUBLISHED[name])


@pytest.mark.parametrize(("name", "part", "fact", "value"), OTHERS)
def test_a_fact_that_changes_the_numbers_is_refused_by_its_name(tmp_path, name, part, fact, value):
    config = json.loads(json.dumps(PUBLISHED[name]))
    (config[part] if part else config)[fact] = value
    with pytest.raises(WeightsCorrupt, match=f"with {f'{part}.' if part else ''}{fact} "):
        check(name, tmp_path, config)


@pytest.mark.parametrize(
    ("name", "part", "fact"),
    [(LARGE, "backbone_config", "num_attention_heads"), (LAION, "text_config", "hidden_act"),
     (SIGLIP, "text_config", "vocab_size")],
)  # fmt: skip
def test_a_fact_that_is_left_out_is_what_transformers_takes(tmp_path, name, part, fact):
    config = json.loads(json.dumps(PUBLISHED[name]))
    del config[part][fact]
    with pytest.raises(WeightsCorrupt, match=f"{part}.{fact} "):
        check(name, tmp_path, config)
