"""What every contract is given when its app is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from depthface_gateway.settings import Settings
from depthface_gateway.triton import Triton

__all__ = ["Context", "Held"]


@dataclass
class Held:
    """How many bytes the bodies of requests hold that are being answered."""

    bytes: int = 0


@dataclass(frozen=True)
class Context:
    """The world of an app.

    Attributes:
        triton: the servers behind, shared by all apps of the process; open it in the app's lifespan
            (`async with context.triton:`, as often as you like).
        settings: what holds for every contract.
        environment: the variables of the process, for a contract's own settings (`depthface_gateway.settings`).
        data: the folder for files; it is made by who first writes there.
        database: SQLAlchemy's URL; empty for SQLite in `data`.
        with_worker: whether the jobs are done in this process too; None: as the database wants it.
        upstream: where what we lack goes, `http://…`; empty for nowhere.
        held: what all apps of the process hold.
    """

    triton: Triton
    settings: Settings
    environment: Mapping[str, str] = field(default_factory=dict)
    data: Path = Path("gateway-data")
    database: str = ""
    with_worker: bool | None = None
    upstream: str = ""
    held: Held = field(default_factory=Held)
