"""Who is believed, and who is not."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from fixtures.tokens import KEY, OTHER_KEY, claims, pem, token

from depthface.errors import ConfigError
from depthface_gateway.jobs.tokens import BadToken, Tokens


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    path = tmp_path / "public_key.pem"
    path.write_bytes(pem())
    return Tokens(path)


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def tampered(**changes: object) -> str:
    """A valid token whose claims were changed afterwards."""
    header, _, signature = token().split(".")
    return f"{header}.{part(claims(**changes))}.{signature}"


def signed_with_the_public_key() -> str:
    """HS256, with the public key's text as the secret: what a careless reader would take."""
    body = f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(claims(is_admin=True))}"
    signature = hmac.new(pem(), body.encode(), hashlib.sha256).digest()
    return f"{body}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


BAD = {
    "nothing": "",
    "words": "not.a.token",
    "null bytes": "\0.\0.\0",
    "unsigned": jwt.encode(claims(is_admin=True), None, algorithm="none"),
    "unsigned, with the signature of another": f"{part({'alg': 'none'})}.{part(claims())}.{token().split('.')[2]}",
    "another key": token(OTHER_KEY),
    "the public key as a secret": signed_with_the_public_key(),
    "ES384": token(ec.generate_private_key(ec.SECP384R1()), "ES384"),
    "RS256": token(rsa.generate_private_key(65537, 2048), "RS256"),
    "expired": token(exp=int(time.time()) - 1),
    "expires now": token(exp=int(time.time())),
    "no expiry": token(exp=None),
    "an expiry that is a word": token(exp="never"),
    "an endless expiry": token(exp=float("inf")),
    "claims that are cut off": f"{token().split('.')[0]}.{part({'sub': 'a'})[:-1]}.{token().split('.')[2]}",
    "not yet": token(nbf=int(time.time()) + 3600),
    "nobody": token(sub=None),
    "tampered": tampered(is_admin=True),
    "permissions as a text": token(permissions="ai_inference_support_no"),
    "permissions as a map": token(permissions={"ai_inference_support": False}),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_believed(tokens: Tokens, name: str) -> None:
    with pytest.raises(BadToken):
        tokens.caller(BAD[name])


def test_what_a_token_allows(tokens: Tokens) -> None:
    user = tokens.caller(token())
    assert (user.name, user.may_infer, user.is_admin) == ("anna", True, False)
    other = tokens.caller(token(permissions=["ai_inference"]))
    assert (other.may_infer, other.is_admin) == (False, False)
    none = tokens.caller(token(permissions=None, is_admin=None))
    assert (none.may_infer, none.is_admin) == (False, False)
    admin = tokens.caller(token(permissions=[], is_admin=True))
    assert (admin.may_infer, admin.is_admin) == (True, True)


@pytest.mark.parametrize("value", ["true", "false", 1, ["x"], {"a": 1}])
def test_only_true_makes_an_admin(tokens: Tokens, value: object) -> None:
    assert not tokens.caller(token(is_admin=value)).is_admin


def test_a_token_holds_to_its_last_second(tokens: Tokens) -> None:
    assert tokens.caller(token(exp=int(time.time()) + 2)).name == "anna"


@pytest.mark.parametrize("made_s", [60, 0, -86_400])
def test_a_token_of_a_clock_that_is_ahead_is_believed(tokens: Tokens, made_s: int) -> None:
    assert tokens.caller(token(iat=int(time.time()) + made_s)).name == "anna"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),
        (b"", "no public key"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "no public key"),
        (pem(ec.generate_private_key(ec.SECP384R1())), "not for ES256"),
        (
            rsa.generate_private_key(65537, 2048).public_key().public_bytes(
                Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
            ),
            "not for ES256",
        ),
        (KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), "no public key"),
    ],
)  # fmt: skip
def test_without_its_key_the_service_does_not_start(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "key.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=words) as refusal:
        Tokens(path)
    assert "PUBLIC_KEY_PATH" in str(refusal.value)
