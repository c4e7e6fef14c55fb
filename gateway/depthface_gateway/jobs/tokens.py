"""Who may do what: JSON Web Tokens (RFC 7519) signed with ES256, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from depthface.errors import ConfigError

if TYPE_CHECKING:
    from jwt.types import Options

__all__ = ["PERMISSION", "BadToken", "Caller", "Tokens"]

PERMISSION = "ai_inference_support"

_ALGORITHM = "ES256"


class BadToken(Exception):
    """The token says nothing that can be believed; why is not told to its bearer."""


@dataclass(frozen=True)
class Caller:
    """Who asks, as a token says or, without authentication, nobody in particular.

    Attributes:
        is_admin: may do everything.
        may_infer: may make and delete jobs.
    """

    name: str | None
    is_admin: bool
    may_infer: bool


class Tokens:
    """Reads tokens with one public key.

    Args:
        key_path: a PEM file with an EC public key on P-256; None: authentication is off, and all are admins.

    Raises:
        ConfigError: there is no such key in the file.
    """

    def __init__(self, key_path: Path | None) -> None:
        self._key = None if key_path is None else _key_from(key_path)

    @property
    def is_off(self) -> bool:
        """Whether everybody may do everything."""
        return self._key is None

    def caller(self, token: str) -> Caller:
        """Return who a token says that its bearer is.

        Raises:
            BadToken: it is expired, not signed with our key, or not made as it should be.
        """
        if self._key is None:
            return Caller(None, is_admin=True, may_infer=True)
        try:
            # The clock of who signs may be ahead of ours: when the token was made is not looked at, but when it ends.
            options: Options = {"require": ["exp", "sub"], "verify_iat": False}
            claims = jwt.decode(token, self._key, algorithms=[_ALGORITHM], options=options)
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError) as error:
            raise BadToken(str(error)) from error
        permissions = claims.get("permissions", [])
        if not isinstance(permissions, list):  # in a text, `in` would find part of a word
            raise BadToken("permissions is no list")
        is_admin = claims.get("is_admin", False) is True  # not for "false", which is true in Python
        return Caller(str(claims["sub"]), is_admin, may_infer=is_admin or PERMISSION in permissions)


def _key_from(path: Path) -> EllipticCurvePublicKey:
    remedy = (
        "Put the EC public key (P-256) of who signs the tokens there as PEM, name another file with PUBLIC_KEY_PATH, "
        "or set AUTH_DISABLED=true where nobody else can reach this service."
    )
    try:
        key = load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"The public key {path} cannot be read ({error.strerror}).", remedy) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path} holds no public key in PEM.", remedy) from error
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        raise ConfigError(f"The key in {path} is not for ES256, which needs a curve of P-256.", remedy)
    return key
