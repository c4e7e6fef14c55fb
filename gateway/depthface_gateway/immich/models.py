"""Which of the served models immich's names mean, and how long they stay loaded."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from depthface.errors import DepthfaceError, ModelUnavailable, ServerUnavailable
from depthface_client import AsyncClient, ModelInfo
from depthface_gateway.immich.away import note, noted
from depthface_gateway.immich.entries import CLIP, FACES, Entry, cleaned
from depthface_gateway.loops import repeat
from depthface_gateway.meanings import analyses, embedding_models, exportable, hub_id
from depthface_gateway.settings import Environment, number, words
from depthface_gateway.triton import Triton

__all__ = ["HEEDED", "Models", "preloaded"]

T = TypeVar("T")

_log = logging.getLogger(__name__)

_TAKING = {"visual": "image", "textual": "text"}

# immich's names are OpenCLIP's; the same weights' ids at the hub, which our models are made for.
_HUB = {
    "ViT-B-32__openai": "openai/clip-vit-base-patch32",
    "ViT-B-32__laion2b-s34b-b79k": "laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
    "ViT-B-32__laion2b_s34b_b79k": "laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
    "ViT-B-16-SigLIP2__webli": "google/siglip2-base-patch16-224",
}

_PRELOAD = "MACHINE_LEARNING_PRELOAD__"
_PRELOADED = {  # variables to the task and type of what they name; those without a type are immich's before 3
    "CLIP": (CLIP, ("visual", "textual")),
    "CLIP__VISUAL": (CLIP, ("visual",)),
    "CLIP__TEXTUAL": (CLIP, ("textual",)),
    "FACIAL_RECOGNITION": (FACES, ("recognition",)),
    "FACIAL_RECOGNITION__DETECTION": (FACES, ("detection",)),
    "FACIAL_RECOGNITION__RECOGNITION": (FACES, ("recognition",)),
}
_TTL, _TTL_POLL = "MACHINE_LEARNING_MODEL_TTL", "MACHINE_LEARNING_MODEL_TTL_POLL_S"

_TRIED_AGAIN_AFTER_S = 10.0
"""So long, a model that could not be loaded is not tried again: each try may take as long as a loading."""

HEEDED = frozenset({_TTL, _TTL_POLL, *(_PRELOAD + variable for variable in _PRELOADED)})
"""Those of immich's variables that count here."""


def preloaded(environment: Environment) -> list[Entry]:
    """Return what immich's variables want loaded from the start."""
    return [
        Entry(task, type, cleaned(name), {})
        for variable, (task, types) in _PRELOADED.items()
        for name in words(environment, _PRELOAD + variable)
        for type in types
    ]


@dataclass
class Models:
    """The served models, by immich's names.

    Attributes:
        aliases: immich's name, as it is or cleaned, to a pack, to a space, or to the whole name of a model.
        ttl_s: how long a model that nobody asks for stays loaded; 0 for ever.
        poll_s: how often that is looked at.
        used: when each was asked last, in seconds of the monotonic clock.
        busy: how many requests each is answering.
        known: those that were served once, by name; they are loaded again when they are asked.
        away: those of them that were unloaded here.
        kept: those that were to be preloaded: they stay loaded.
        failed: those that could not be loaded, with when, in seconds of the monotonic clock, and the error's sentences.
        notes: the file that keeps those away for the next start; None for nowhere.
    """

    triton: Triton
    aliases: Mapping[str, str]
    ttl_s: float
    poll_s: float
    used: dict[str, float] = field(default_factory=dict)
    busy: dict[str, int] = field(default_factory=dict)
    known: dict[str, ModelInfo] = field(default_factory=dict)
    away: set[str] = field(default_factory=set)
    kept: set[str] = field(default_factory=set)
    failed: dict[str, tuple[float, tuple[str, str]]] = field(default_factory=dict)
    notes: Path | None = None
    _changing: defaultdict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))
    _noting: asyncio.Lock = field(default_factory=asyncio.Lock)

    @classmethod
    def of(
        cls, triton: Triton, aliases: Mapping[str, str], environment: Environment, notes: Path | None = None
    ) -> Models:
        """Make it with immich's own variables for times; without one that is set, nothing is unloaded."""
        ttl_s = number(environment, _TTL, 0.0, -1e9)
        poll_s = number(environment, _TTL_POLL, 10.0, 0.01)
        known = noted(notes) if notes else {}
        aliases = {cleaned(theirs): ours for theirs, ours in aliases.items()} | dict(aliases)
        return cls(triton, aliases, max(ttl_s, 0.0), poll_s, known=known, away=set(known), notes=notes)

    def name(self, entry: Entry) -> str | None:
        """Return our name of the model that an entry means; None if it is not served."""
        self.known.update(self.triton.models)
        return self._meant(entry, self.known)

    async def ask(self, name: str, call: Callable[[AsyncClient], Awaitable[T]]) -> T:
        """Ask a model, which is loaded first if it was unloaded."""
        self.busy[name] = self.busy.get(name, 0) + 1
        try:
            if name in self.away:
                await self.load(name)
            try:
                return await self.triton.ask(call)
            except ModelUnavailable:
                await self.load(name)
                return await self.triton.ask(call)
        finally:
            self.busy[name] -= 1
            self.used[name] = time.monotonic()

    async def load(self, name: str) -> None:
        """Load a model unless every server has it; those who want it meanwhile wait for the same loading.

        Raises:
            ModelUnavailable: it cannot be loaded, now or a moment ago.
        """
        async with self._changing[name]:
            await self.triton.look()  # others load and unload too
            if not self.triton.has_ready(name):
                await self._load(name)
                self.used[name] = time.monotonic()
                _log.info("loaded %s", name)
            self.failed.pop(name, None)
            self.known.update(self.triton.models)
            if name in self.away:
                self.away.discard(name)
                await self._note()

    async def _load(self, name: str) -> None:
        failed_at, why = self.failed.get(name, (-math.inf, ("", "")))
        if time.monotonic() - failed_at < _TRIED_AGAIN_AFTER_S:
            raise ModelUnavailable(*why)
        try:
            await self.triton.on_every_server(lambda client: client.load(name))
        except ModelUnavailable as error:
            self.failed[name] = time.monotonic(), (error.what, error.remedy)
            raise

    async def preload(self, entries: list[Entry]) -> None:
        """Load these as soon as a server answers; what cannot be is said in the log."""
        while not self.triton.is_alive:
            await asyncio.sleep(1)
        for entry in entries:
            name = self.name(entry) or self._meant(entry, exportable()) or self.aliases.get(entry.model, entry.model)
            self.kept.add(name)
            try:
                await self.load(name)
            except DepthfaceError as error:
                _log.warning("%s cannot be preloaded: %s", name, error)
            except Exception:  # the others are to be tried too
                _log.exception("%s cannot be preloaded", name)

    async def watch(self) -> None:
        """Unload for ever what nobody asks for."""
        if self.ttl_s:
            await repeat(self._unload_the_idle, self.poll_s, "what nobody asks for is not unloaded")

    async def _unload_the_idle(self) -> None:
        for name in [*self.used]:
            if self._is_idle(name):  # now: another may have taken long to unload
                await self._unload(name)

    def _is_idle(self, name: str) -> bool:
        last = self.used.get(name, math.inf)
        return name not in self.kept and not self.busy.get(name) and time.monotonic() - last > self.ttl_s

    async def _unload(self, name: str) -> None:
        self.used.pop(name, None)
        self.away.add(name)  # before: who asks meanwhile waits until it is loaded again
        async with self._changing[name]:
            await self._note()
            try:
                await self.triton.on_every_server(lambda client: client.unload(name))
                _log.info("unloaded %s: nobody asked for it for %g s", name, self.ttl_s)
            except DepthfaceError as error:
                self.used.setdefault(name, time.monotonic())  # to be tried again in as long a time
                if not isinstance(error, ServerUnavailable):
                    self.away.discard(name)
                    await self._note()
                    _log.warning("%s cannot be unloaded: %s", name, error)

    async def _note(self) -> None:
        """Note what is away, for the next start."""
        if self.notes is not None:
            async with self._noting:  # the last to write knows all
                models = {name: self.known[name] for name in sorted(self.away & self.known.keys())}
                await asyncio.to_thread(note, self.notes, models)

    def _meant(self, entry: Entry, among: Mapping[str, ModelInfo]) -> str | None:
        """Return which of these models an entry means; None for none."""
        ours = self.aliases.get(entry.model, entry.model)
        if entry.task == FACES:
            by_key = analyses(among)
        elif entry.task == CLIP and entry.type in _TAKING:
            by_key = embedding_models(among, _TAKING[entry.type])
        else:
            return None
        if ours in by_key:
            return by_key[ours]
        if ours in by_key.values():
            return ours
        weights = _HUB.get(entry.model)
        made_for = {name for name, model in exportable().items() if hub_id(model) == weights}
        return next((name for name in by_key.values() if name in made_for or hub_id(among[name]) == weights), None)
