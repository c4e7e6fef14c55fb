"""The committed text of model_repository/ is what the cards say; run `make generate` if a test here fails."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from depthface.families import all_cards
from depthface_export.texts import texts

COMMITTED = Path(__file__).parents[2] / "model_repository"
CARDS = [card for card in all_cards().values() if card.is_committed]


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_committed_text_is_fresh(card):
    for path, text in texts(card).items():
        assert (COMMITTED / path).read_text() == text, path


def test_nothing_else_is_committed():
    expected = {f"model_repository/{path}" for card in CARDS for path in texts(card)}
    listed = subprocess.run(
        ["git", "ls-files", "model_repository"], cwd=COMMITTED.parent, capture_output=True, text=True, check=True
    )
    assert set(listed.stdout.split()) == expected


@pytest.mark.parametrize("card", all_cards().values(), ids=lambda card: card.name)
def test_configs_survive_a_round_trip(card):
    for path, text in texts(card).items():
        if path.suffix == ".pbtxt":
            config = text_format.Parse(text, pb.ModelConfig())
            assert config.name == path.parent.name
            assert config.max_batch_size > 0  # the text format drops a zero
