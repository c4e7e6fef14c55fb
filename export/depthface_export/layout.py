"""The public models of a repository in one form or the other: what is there, and how it is put there whole."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Set
from pathlib import Path

from tritonclient.grpc import model_config_pb2 as pb

from depthface import config, manifest
from depthface.contract import CONFIG_FILE, ENSEMBLE, EXPORTED_CONFIG
from depthface.errors import ConfigError
from depthface.spec import Pipeline
from depthface_export import staging, texts
from depthface_export.ensembles import step_names
from depthface_export.forms import form_of
from depthface_export.job import Job

__all__ = ["changes", "install", "misfits"]


def changes(job: Job) -> list[str]:
    """Why the repository's public models are not in the form that this export gives them; empty if they are."""
    return [
        f"{pipeline.name}: {'an ensemble' if found == ENSEMBLE else 'a pipeline'} before"
        for pipeline in job.card.pipelines
        if (found := config.form_in(job.target / pipeline.name)) not in (None, form_of(pipeline, job.form))
    ]


def misfits(job: Job) -> list[str]:
    """Which of the repository's public models another depthface laid out, so that this one does not serve them."""
    return [
        f"{pipeline.name} {misfit}"
        for pipeline in job.card.pipelines
        if (misfit := config.misfit_of(job.target / pipeline.name))
    ]


def install(job: Job, build: Path, exported: Mapping[str, pb.ModelConfig]) -> None:
    """Put all text of a card into its place, the public models after what they consist of, and sweep up.

    A public model that changes its form comes into its place whole, in one step; so does one that is new. Of what is
    there already, only what differs is written. Steps that no ensemble has any more go last, and networks that the card
    no longer has.
    """
    files = texts.texts(job.card, job.form)
    files |= {Path(name, EXPORTED_CONFIG): texts.text_of(each) for name, each in exported.items()}
    public = {pipeline.name: pipeline for pipeline in job.card.pipelines}
    folders = sorted({path.parts[0] for path in files}, key=lambda name: name in public)
    for name in folders:
        own = {path: text for path, text in files.items() if path.parts[0] == name}
        target = job.target / name
        if target.exists() and not (name in public and _changes_form(job, public[name])):
            texts.write(job.target, own)
            continue
        texts.write(build, own)
        staging.install(build / name, target)
    for pipeline in job.card.pipelines:
        _sweep(job.target, pipeline, kept=set(folders))
    _sweep_networks(job.target, kept=set(folders), public=public.keys())


def _changes_form(job: Job, pipeline: Pipeline) -> bool:
    return config.form_in(job.target / pipeline.name) != form_of(pipeline, job.form)


def _sweep(repository: Path, pipeline: Pipeline, kept: set[str]) -> None:
    """Remove the steps of the ensemble that a pipeline was before."""
    for name in step_names(pipeline):
        folder = repository / name
        if name not in kept and _is_step(folder, pipeline.name):
            shutil.rmtree(folder)


def _sweep_networks(repository: Path, kept: set[str], public: Set[str]) -> None:
    """Remove the networks that these public models alone had before: a server would go by their manifests."""
    for folder in manifest.folders(repository):
        name, found = folder.parent.name, manifest.read(folder)
        if name not in kept and found is not None and _is_of(found, name, public):
            shutil.rmtree(folder.parent)


def _is_of(found: manifest.Manifest, network: str, public: Set[str]) -> bool:
    """Return True for the manifest of a network of these models alone; a copy under another name is none of theirs."""
    return bool(found.serves) and all(name in public and network in needed for name, needed in found.serves.items())


def _is_step(folder: Path, public: str) -> bool:
    try:
        return config.parameters_of(config.read(folder / CONFIG_FILE)).part_of == public
    except ConfigError:
        return False
