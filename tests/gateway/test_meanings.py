"""Which served model is meant: by task, facts and rank, whatever its name."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from depthface.errors import ModelUnavailable, ServerUnavailable
from depthface_client import ModelInfo
from depthface_gateway import immichvr
from depthface_gateway.faces.asking import Faces
from depthface_gateway.meanings import analyses, embedding_models, embedding_pair, exportable, hub_id


def model(name: str, task: str, **more: object) -> ModelInfo:
    return replace(
        ModelInfo(name=name, ready=True, weights="w@1", task=task, precision="fp32", is_lazy=False),
        **more,
    )


def faces(*served: ModelInfo, pack: str = "", is_alive: bool = True) -> Faces:
    triton = SimpleNamespace(models={one.name: one for one in served}, is_alive=is_alive)
    return Faces(SimpleNamespace(triton=triton), pack)


MINE = model("anything", "faces", facts={"pack": "mine"})
YOURS = model("something", "faces", facts={"pack": "yours"})
USUAL = model("the usual", "faces", facts={"pack": "buffalo_l"})
FINDING = model("face_analysis_of_nobody", "faces")


@pytest.mark.parametrize(
    ("served", "pack", "name"),
    [
        ([MINE, FINDING], "", "anything"),
        ([MINE, YOURS, USUAL], "", "the usual"),
        ([MINE, YOURS], "yours", "something"),
        ([MINE, YOURS], "something", "something"),  # by its whole name
        ([replace(MINE, name="a part"), replace(MINE, outputs=("boxes", "crops"))], "mine", "anything"),  # tells more
    ],
)
def test_the_pack_is_chosen_or_the_usual_or_the_only_one(served, pack, name):
    assert faces(*served, pack=pack).model == name


@pytest.mark.parametrize(
    ("served", "pack", "sentence"),
    [
        ([], "", "No face pack is served"),
        ([FINDING, model("a", "depth")], "", "No face pack is served"),
        ([MINE, YOURS], "", r"Several face packs are served: mine, yours\. .*FACES_PACK"),
        ([MINE], "theirs", "'theirs' is not served; what is: mine"),
    ],
)
def test_a_pack_that_there_is_not_is_named(served, pack, sentence):
    with pytest.raises(ModelUnavailable, match=sentence):
        _ = faces(*served, pack=pack).model


def test_without_a_server_that_is_said_first():
    with pytest.raises(ServerUnavailable):
        _ = faces(MINE, is_alive=False).model


def test_of_a_space_the_lower_rank_is_taken():
    served = [
        model(name, "embedding", inputs=(taking,), rank=rank, facts={"space": "s"})
        for name, taking, rank in (("b", "image", 1), ("a", "image", 2), ("c", "text", 0))
    ]
    assert embedding_models({one.name: one for one in served}, "image") == {"s": "b"}


@pytest.mark.parametrize(
    ("served", "pair"),
    [
        ("ai bt", None),  # each space lacks one
        ("ai at bi", ("ai", "at")),
        ("ai bi bt", ("bi", "bt")),  # the first has no words
        ("bi bt ai at", ("ai", "at")),
    ],
)
def test_photos_and_words_are_of_one_space(served, pair):
    models = {
        name: model(name, "embedding", inputs=(taking,), rank=ord(space) - ord("a"), facts={"space": space})
        for name in served.split()
        for space, taking in [(name[0], {"i": "image", "t": "text"}[name[1]])]
    }
    assert embedding_pair(models) == pair


def test_what_can_be_exported_is_told_as_a_server_would():
    known = exportable()
    assert {one.task for one in known.values()} == {"depth", "faces", "embedding", "swap"}
    assert hub_id(model("x", "depth", weights="a/b@1")) == "a/b"
    assert set(analyses(known)) >= {"buffalo_l", "antelopev2"}
    assert not any(one.ready for one in known.values())
    assert {known[name].task for name in immichvr._OURS.values()} == {"depth"}
    assert list(immichvr._OURS) == list(immichvr._MODELS)
