"""The wire between a step of the server and the client."""

from __future__ import annotations

import pytest

from depthface.errors import ImageTooLarge, InvalidImage, InvalidInput, NoFaceFound, decode, encode


@pytest.mark.parametrize("kind", [InvalidInput, InvalidImage, ImageTooLarge, NoFaceFound])
@pytest.mark.parametrize("remedy", ["", "Send one that is 2 × as large."])
def test_what_is_wrong_and_how_to_mend_it_arrive_apart(kind, remedy):
    sent = kind("The photo is 3×4: too small.", remedy)
    got = decode(f"[request 7] in ensemble 'depth', {encode(sent)}")
    assert type(got) is kind
    assert (got.what, got.remedy) == (sent.what, sent.remedy)


def test_who_asks_without_our_client_reads_one_line():
    line = encode(InvalidImage("It is damaged.", "Send another."))
    assert line.replace("\N{NO-BREAK SPACE}", " ") == "invalid_image: It is damaged. Send another."


def test_another_text_is_none_of_ours():
    assert decode("unexpected inference output 'x'") is None
