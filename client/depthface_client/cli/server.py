"""`depthface models`, `health`, `load` and `unload`."""

from __future__ import annotations

import time
from dataclasses import asdict

import click

from depthface_client.cli import shared
from depthface_client.client import Client

__all__ = ["health", "load", "models", "unload"]


@click.command()
@click.argument("model")
@shared.as_json
@shared.url
def unload(model: str, as_json: bool, url: str) -> None:
    """Take a model out of the server's memory until `load`. A face swapper is loaded again when it is used.

    Example: depthface unload my_model
    """
    with Client(url) as client:
        client.unload(model)
    shared.say_json({"model": model, "loaded": False}) if as_json else shared.say(f"{model}: unloaded")


@click.command()
@click.argument("model")
@shared.as_json
@shared.url
def load(model: str, as_json: bool, url: str) -> None:
    """Have the server load a model of its repository: one that was unloaded, or exported since the server started.

    Example: depthface load my_model
    """
    with Client(url) as client:
        client.load(model)
    shared.say_json({"model": model, "loaded": True}) if as_json else shared.say(f"{model}: loaded")


@click.command()
@shared.as_json
@shared.timeout
@shared.url
def models(as_json: bool, timeout_s: float, url: str) -> None:
    """List what the server serves, and with which weights.

    Example: depthface models
    """
    with Client(url, timeout_s=timeout_s) as client:
        found = client.models()
    if as_json:
        shared.say_json([asdict(model) for model in found])
        return
    width = max((len(model.name) for model in found), default=0)
    for model in found:
        absent = "not loaded; its first call loads it" if model.is_lazy else "not ready"
        shared.say(f"{model.name:{width}}  {model.task:9}  {model.weights if model.ready else absent}")


@click.command()
@shared.as_json
@shared.timeout
@shared.url
def health(as_json: bool, timeout_s: float, url: str) -> None:
    """Exit 0 only if every model that is ready answers a real request.

    Example: depthface health || systemctl restart depthface
    """
    with Client(url, timeout_s=timeout_s) as client:
        started = time.monotonic()
        answering = client.check()
        milliseconds = round((time.monotonic() - started) * 1000)
    if as_json:
        shared.say_json({"healthy": True, "models": answering, "milliseconds": milliseconds})
        return
    for name in answering:
        shared.say(f"{name}: answers")
    shared.say(f"healthy ({milliseconds} ms)")
