"""The committed text of model_repository/ is what the cards say; run `make generate` if a test here fails."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import get_args

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from depthface.contract import CONFIG_FILE, CONTRACT, Form
from depthface.families import all_cards
from depthface_export import configs
from depthface_export.texts import texts

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "model_repository"
DOCS = " ".join(" ".join(path.read_text().split()) for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))))
CARDS = [card for card in all_cards().values() if card.is_committed]


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_committed_text_is_fresh(card):
    assert len(texts(card)) == len(card.networks) + 2 * len(card.pipelines)
    for path, text in texts(card).items():
        assert (COMMITTED / path).read_text() == text, path


def test_nothing_else_is_committed():
    expected = {f"model_repository/{path}" for card in CARDS for path in texts(card)}
    listed = subprocess.run(
        ["git", "ls-files", "model_repository"], cwd=COMMITTED.parent, capture_output=True, text=True, check=True
    )
    assert set(listed.stdout.split()) == expected


ASKED_OF_THE_SERVER = {
    1: {
        "contract",
        "counted",
        "depthface.families.clip.pipeline embed_image",
        "depthface.families.clip.pipeline embed_text",
        "depthface.families.clip.pipeline prepare_image",
        "depthface.families.depth_anything_v2.pipeline estimate",
        "depthface.families.depth_anything_v2.pipeline finish",
        "depthface.families.depth_anything_v2.pipeline prepare",
        "depthface.families.insightface.pipeline analyse",
        "depthface.families.insightface.pipeline finish_detection",
        "depthface.families.insightface.pipeline prepare_detection",
        "depthface.families.insightface.pipeline swap",
        "depthface.families.siglip.pipeline embed_image",
        "depthface.families.siglip.pipeline embed_text",
        "depthface.families.siglip.pipeline prepare_image",
        "depthface_server.pipeline Pipeline",
        "fact.embedding_size",
        "fact.pack",
        "fact.space",
        "gathers",
        "lazy",
        "networks",
        "part_of",
        "rank",
        "task",
    },
}
"""By the number of the contract, what files that were exported under it ask: functions, and parameters by name."""


def test_the_contract_is_raised_where_what_files_ask_is_no_longer_there():
    """Files of before are served as long as its number is theirs. What is new may be added here."""
    asked = set()
    for card in all_cards().values():
        for form in get_args(Form):
            for path, text in texts(card, form).items():
                if path.name == "model.py":
                    asked |= {" ".join(found) for found in re.findall(r"from (\S+) import (\S+)", text)}
                elif path.name == CONFIG_FILE:
                    asked |= {*text_format.Parse(text, pb.ModelConfig()).parameters}
    assert ASKED_OF_THE_SERVER[CONTRACT] == asked


@pytest.mark.parametrize("card", all_cards().values(), ids=lambda card: card.name)
def test_configs_survive_a_round_trip(card):
    for path, text in texts(card).items():
        if path.suffix == ".pbtxt":
            config = text_format.Parse(text, pb.ModelConfig())
            assert config.name == path.parent.name
            assert config.max_batch_size > 0  # the text format drops a zero


def stated(option: str) -> str:
    """The default of an option of `serve` in the table of limits of docs/operating.md."""
    (said,) = re.findall(rf"`{option}` \| ([\d.]+) \|", DOCS)
    return said


def queues() -> dict[str, pb.ModelQueuePolicy]:
    """Of every public model, its queue."""
    made = [configs.pipeline_config(pipeline) for card in all_cards().values() for pipeline in card.pipelines]
    return {config.name: config.dynamic_batching.default_queue_policy for config in made}


def test_a_public_models_queue_is_as_long_as_the_docs_say():
    assert len(queues()) == 3 + 2 * 5 + 1 + 2 * 3
    for name, queue in queues().items():
        assert (queue.max_queue_size, queue.default_timeout_microseconds) == (256, 300_000_000), name
        assert queue.allow_timeout_override, name  # a client may wait less
    assert stated("--queue-size") == "256"
    assert stated("--queue-seconds") == "300"


@pytest.mark.parametrize("card", all_cards().values(), ids=lambda card: card.name)
def test_a_network_has_no_queue_of_its_own_and_takes_no_more_at_once_than_it_says(card):
    for network in card.networks:
        config = configs.network_config(network)
        assert not config.dynamic_batching.HasField("default_queue_policy")
        assert config.max_batch_size == network.max_batch_size in (8, 16, 32)


def test_the_limits_of_a_photo_are_those_that_the_docs_say():
    from depthface.families.depth_anything_v2 import processing
    from depthface.limits import MAX_FACES, Limits

    assert Limits() == Limits(max_bytes=64 * 2**20, max_pixels=89_478_485, max_faces=512)
    assert (processing.MAX_ASPECT, processing.MAX_GRID_SIDE_PX, MAX_FACES) == (10, 1554, 512)
    assert (stated("--max-mib"), stated("--max-megapixels"), stated("--max-faces")) == ("64", "89", "512")
    for words in ("64 MiB", "longer than 10:1", "at most 512 faces"):
        assert words in DOCS, words
