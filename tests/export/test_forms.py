"""The two forms of a public model: what an ensemble is made of, and that a change of form leaves nothing behind."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
from export.conftest import snapshot
from fixtures.serving import depthface

from depthface import config, manifest
from depthface.config import parts_of
from depthface.contract import CONFIG_FILE, ENSEMBLE, EXPORTED_CONFIG
from depthface.errors import ConfigError, ExportError, ServeError
from depthface.families import all_cards, card_named
from depthface.verify import verdicts
from depthface_export import configs, forms, layout, staging
from depthface_export.texts import text_of, texts, write
from depthface_server.limited import LimitedCopy
from depthface_server.options import Options
from depthface_server.repository import contents, refuse_for_native

LINES = [
    pytest.param(card, pipeline, id=pipeline.name)
    for card in all_cards().values()
    for pipeline in card.pipelines
    if pipeline.line is not None
]


def laid_out(card, pipeline):
    """The configs of the ensemble and its own steps, and of the network."""
    made = configs.laid_out(card, ENSEMBLE)
    networks = {network.name: configs.network_config(network) for network in card.networks}
    return made[pipeline.name], made | networks


def test_what_is_no_straight_line_is_named():
    lines = {pipeline.name for _, pipeline in (param.values for param in LINES)}
    assert {"depth_anything_v2_large", "face_detection_buffalo_l", "clip_vit_b_32_image"} <= lines
    others = [each for card in all_cards().values() for each in card.pipelines if each.name not in lines]
    assert {pipeline.parameters.task for pipeline in others} == {"faces", "swap", "embedding"}
    assert all(each.name.startswith(("face_analysis_", "face_swap_")) or each.name.endswith("_text") for each in others)


@pytest.mark.parametrize(("card", "pipeline"), LINES)
def test_a_client_sees_the_same_model_in_both_forms(card, pipeline):
    ensemble, _ = laid_out(card, pipeline)
    whole = configs.pipeline_config(pipeline)
    assert ensemble.platform == ENSEMBLE
    for field in ("name", "max_batch_size", "input", "output"):
        assert getattr(ensemble, field) == getattr(whole, field), field
    assert config.parameters_of(ensemble) == config.parameters_of(whole)


@pytest.mark.parametrize(("card", "pipeline"), LINES)
def test_every_tensor_of_an_ensemble_comes_from_somewhere_and_no_output_feeds_a_step(card, pipeline):
    """An output that also fed a step would make every request for a part of the outputs fail (24.10)."""
    ensemble, models = laid_out(card, pipeline)
    steps = ensemble.ensemble_scheduling.step
    given = [tensor for step in steps for tensor in step.output_map.values()]
    taken = {tensor for step in steps for tensor in step.input_map.values()}
    inputs, outputs = ({tensor.name for tensor in side} for side in (ensemble.input, ensemble.output))
    assert len(given) == len(set(given))
    assert taken <= set(given) | inputs
    assert inputs | (set(given) - outputs) <= taken, "something is made for nobody"
    assert outputs <= set(given)
    assert not outputs & taken
    for step in steps:
        model = models[step.model_name]
        assert set(step.input_map) == {tensor.name for tensor in model.input}
        assert set(step.output_map) <= {tensor.name for tensor in model.output}
        assert model.max_batch_size >= ensemble.max_batch_size


@pytest.mark.parametrize(("card", "pipeline"), LINES)
def test_only_the_first_step_has_a_queue_with_an_end(card, pipeline):
    ensemble, models = laid_out(card, pipeline)
    first, *others = parts_of(ensemble)
    policy = models[first].dynamic_batching.default_queue_policy
    assert policy == configs.pipeline_config(pipeline).dynamic_batching.default_queue_policy
    assert policy.max_queue_size == configs.MAX_QUEUE_SIZE
    assert not any(models[name].dynamic_batching.HasField("default_queue_policy") for name in others)


def test_a_bf16_network_of_an_ensemble_takes_batches():
    """Triton refuses an ensemble with batches of a step without them."""
    card = card_named("depth_anything_v2_small")
    for form, most in (("pipeline", 0), (ENSEMBLE, 8)):
        exported = configs.exported_configs(card, "bf16", "random, seed 0", form=form)
        assert exported[card.networks[0].name].max_batch_size == most


def test_a_bf16_ensemble_is_refused_where_nvidias_backend_would_serve_it(tmp_path):
    """That backend takes batches of exactly `max_batch_size` (as its source says; it cannot be run here)."""
    card = card_named("depth_anything_v2_small")
    for form in ("pipeline", ENSEMBLE):
        exported = configs.exported_configs(card, "bf16", "random, seed 0", form=form)
        write(tmp_path / form, {Path(name, EXPORTED_CONFIG): text_of(each) for name, each in exported.items()})
    refuse_for_native(tmp_path / "pipeline")
    with pytest.raises(ServeError, match=f"{card.name}_network is a bf16 network of an ensemble"):
        refuse_for_native(tmp_path / ENSEMBLE)


@pytest.fixture
def copy(tiny_repository, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_repository, tmp_path / "repository", ignore=shutil.ignore_patterns("__pycache__")))


def test_a_change_of_form_and_back_leaves_nothing_behind(tiny, copy, run):
    before = snapshot(copy)
    outcome, lines = run(tiny, copy, form=ENSEMBLE)
    assert (outcome, lines) == ("exported", [f"anew: {tiny.name}: a pipeline before"])  # the network stays
    after = snapshot(copy)
    assert f"{tiny.name}/1/model.py" not in after
    assert {f"{tiny.name}_{step}/1/model.py" for step in ("prepare", "finish")} <= set(after)
    assert {str(path) for path in texts(tiny, ENSEMBLE)} <= set(after)
    assert run(tiny, copy, form=ENSEMBLE) == ("unchanged", [])
    assert snapshot(copy) == after
    assert contents(copy).exported.keys() == {tiny.name}

    outcome, lines = run(tiny, copy)
    assert (outcome, lines) == ("exported", [f"anew: {tiny.name}: an ensemble before"])
    assert snapshot(copy) == before


def test_the_manifest_says_what_is_typed_to_have_this_form(tiny, copy, run):
    folder = copy / tiny.networks[0].name / "1"
    run(tiny, copy, form=ENSEMBLE)
    found = manifest.read(folder)
    assert not found.differences(folder)
    assert "--form ensemble" in " ".join(found.command)
    (folder / "manifest.json").write_text("half")  # and without one, the configs do
    (verdict,) = verdicts(copy)
    assert "--form ensemble" in verdict.command


class Killed(BaseException):
    """The process ended here."""


@pytest.mark.parametrize("form", ["pipeline", ENSEMBLE])
def test_a_change_of_form_that_was_killed_is_whole_and_is_made_good(tiny, copy, run, form, monkeypatch):
    """Whatever moves into its place, moves whole; the steps before what goes along them, and away after it."""
    run(tiny, copy, form=ENSEMBLE if form == "pipeline" else "pipeline")
    real, moves = layout.staging.install, []

    def install(built: Path, target: Path) -> None:
        if len(moves) == last:
            raise Killed
        moves.append(target.name)
        real(built, target)

    def sweep(*_: object, **__: object) -> None:
        raise Killed

    monkeypatch.setattr(layout.staging, "install", install)
    monkeypatch.setattr(layout, "_sweep", sweep)
    for last in range(4):  # noqa: B007
        moves.clear()
        with pytest.raises(Killed):
            run(tiny, copy, form=form)
        for part in parts_of(config.read(copy / tiny.name / CONFIG_FILE)):
            assert (copy / part / CONFIG_FILE).is_file(), moves
        contents(copy)
    monkeypatch.undo()
    run(tiny, copy, form=form)
    whole = {str(path) for path in texts(tiny, form)}
    assert {name for name in snapshot(copy) if name.endswith((CONFIG_FILE, "model.py", "ensemble.txt"))} == whole


@pytest.mark.parametrize(
    ("serves", "stays"),
    [
        ({"depth": ["network", "old"]}, False),
        ({"depth": ["network", "old"], "other": ["old"]}, True),  # another card has it too
        ({"other": ["old"]}, True),
        ({}, True),
        ({"depth": ["network"]}, True),  # somebody's copy of the network
    ],
)
def test_a_network_that_the_card_has_no_longer_goes_and_no_other(tiny, copy, run, serves, stays):
    network = tiny.networks[0].name
    names = {"depth": tiny.name, "network": network}
    old = Path(shutil.copytree(copy / network, copy / "old")) / "1"
    found = manifest.read(old)
    told = {names.get(public, public): [names.get(name, name) for name in each] for public, each in serves.items()}
    dataclasses.replace(found, serves=told).write(old)
    assert run(tiny, copy) == ("unchanged", [])
    assert old.is_dir() == stays
    assert (copy / network / "1" / "model.onnx").is_file()


def test_a_users_own_folder_of_a_steps_name_stays(tiny, copy, run):
    mine = copy / f"{tiny.name}_finish" / "1"
    mine.mkdir(parents=True)
    (mine.parent / CONFIG_FILE).write_text('backend: "python"')
    run(tiny, copy)
    assert mine.is_dir()


def test_what_cannot_be_an_ensemble_says_so_in_one_sentence(tiny, copy, tmp_path, run):
    card = card_named("inswapper_128")
    with pytest.raises(ExportError, match="cannot be an ensemble: its steps depend on what is found in the photo"):
        forms.check(card, ENSEMBLE)
    done = depthface("export", "inswapper_128", "--form", "ensemble", "--repository", tmp_path / "new")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "new").exists()


def test_of_a_pack_the_detection_alone_becomes_an_ensemble():
    card = card_named("buffalo_l")
    forms.check(card, ENSEMBLE)
    assert forms.staying(card, ENSEMBLE) == ["face_analysis_buffalo_l"]
    assert forms.staying(card, "pipeline") == []
    platforms = {name: made.platform for name, made in configs.laid_out(card, ENSEMBLE).items()}
    assert platforms["face_detection_buffalo_l"] == ENSEMBLE
    assert platforms["face_analysis_buffalo_l"] == ""


def configs_of(served: Path) -> list[Path]:
    """Of every model: in Python 3.11 `rglob` follows no links."""
    return [*served.glob("*/*.pbtxt"), *served.glob("*/configs/*.pbtxt")]


def test_an_operators_queue_is_the_first_steps(tiny, copy, run, tmp_path):
    run(tiny, copy, form=ENSEMBLE)
    LimitedCopy(copy, Options(queue_size=3, queue_time_s=2), tmp_path / "served", limits_ensembles=False)
    sizes = {
        path: config.read(path).dynamic_batching.default_queue_policy.max_queue_size
        for path in configs_of(tmp_path / "served")
    }
    assert {path.relative_to(tmp_path / "served").parts[0] for path, size in sizes.items() if size} == {
        f"{tiny.name}_prepare"
    }
    assert {size for size in sizes.values() if size} == {3}


def test_a_copy_with_other_queues_follows_the_repository(tiny, copy, run, tmp_path):
    run(tiny, copy, form=ENSEMBLE)
    made = LimitedCopy(copy, Options(queue_size=3), tmp_path / "served", limits_ensembles=False)
    models = {path.name for path in made.folder.iterdir()}
    assert f"{tiny.name}_prepare" in models
    run(tiny, copy, form="pipeline")
    made.update()
    assert {path.name for path in made.folder.iterdir()} == models - {f"{tiny.name}_prepare", f"{tiny.name}_finish"}
    found = config.of_model(made.folder / tiny.name)
    assert (parts_of(found), found.dynamic_batching.default_queue_policy.max_queue_size) == ((), 3)
    assert (made.folder / tiny.name / "1").resolve() == (copy / tiny.name / "1").resolve()
    run(tiny, copy, form=ENSEMBLE)
    made.update()
    assert {path.name for path in made.folder.iterdir()} == models
    assert all((copy / name / CONFIG_FILE).is_file() for name in models)


def test_a_network_is_loaded_by_its_own_config_as_soon_as_it_is_exported(tiny, copy, run, tmp_path):
    """Before the copy follows, and where it cannot because of another model's config; the rest follows all the same."""
    run(tiny, copy, form="pipeline")
    made = LimitedCopy(copy, Options(queue_size=3), tmp_path / "served", limits_ensembles=False)
    network, pipeline = tiny.networks[0].name, copy / tiny.name / CONFIG_FILE
    old = {path: (copy / network / path).read_bytes() for path in ("1/model.onnx", EXPORTED_CONFIG)}
    other = shutil.copytree(copy / network, tmp_path / "other")
    for path, content in old.items():
        (other / path).write_bytes(content + b"\n")
    staging.install(other, copy / network)
    assert {path: (made.folder / network / path).read_bytes() for path in old} == {
        path: content + b"\n" for path, content in old.items()
    }
    broken = copy / "broken" / CONFIG_FILE
    broken.parent.mkdir()
    broken.write_text("max_batch_size: many")
    pipeline.write_text(pipeline.read_text() + 'parameters { key: "new" value { string_value: "yes" } }\n')
    for _ in range(2):
        with pytest.raises(ConfigError, match=str(broken)):
            made.update()
    found = config.read(made.folder / tiny.name / CONFIG_FILE)
    assert found.parameters["new"].string_value == "yes"
    assert found.dynamic_batching.default_queue_policy.max_queue_size == 3
    broken.write_text('name: "broken"')
    made.update()
    assert (made.folder / "broken").resolve() == broken.parent
    text = pipeline.read_text()
    pipeline.write_text("max_batch_size: many")
    with pytest.raises(ConfigError, match=str(pipeline)):
        made.update()
    assert config.read(made.folder / tiny.name / CONFIG_FILE) == found
    pipeline.write_text(text)
    shutil.rmtree(broken.parent)
    made.update()
    assert not (made.folder / "broken").is_symlink()


@pytest.mark.parametrize(("options", "most"), [(Options(), 256 + 2 + 1), (Options(queue_size=3), 3 + 2 + 1)])
def test_where_triton_can_bound_what_is_between_the_steps_it_does(tiny, copy, run, tmp_path, options, most):
    run(tiny, copy, form=ENSEMBLE)
    LimitedCopy(copy, options, tmp_path / "served", limits_ensembles=True)
    paths = [path for path in configs_of(tmp_path / "served") if path.is_relative_to(tmp_path / "served" / tiny.name)]
    assert len(paths) == 2
    assert {config.read(path).ensemble_scheduling.max_inflight_requests for path in paths} == {most}
    unlimited = dataclasses.replace(options, queue_size=0)
    LimitedCopy(copy, unlimited, tmp_path / "unlimited", limits_ensembles=True)
    found = config.read(tmp_path / "unlimited" / tiny.name / CONFIG_FILE)
    assert found.ensemble_scheduling.max_inflight_requests == 0


def test_serve_explains_an_ensemble_by_its_steps(tiny, copy, run):
    run(tiny, copy, form=ENSEMBLE)
    done = depthface("serve", "--repository", copy, "--explain", "--queue-size", "7")
    (line,) = (line for line in done.stdout.splitlines() if line.startswith(f"{tiny.name}: "))
    steps = f"{tiny.name}_prepare, {tiny.networks[0].name}, {tiny.name}_finish"
    assert line.startswith(f"{tiny.name}: an ensemble, Triton goes along {steps}; of the first 2 processes, 7 requests")


def test_a_half_copied_ensemble_is_one_sentence(tiny, copy, run):
    run(tiny, copy, form=ENSEMBLE)
    shutil.rmtree(copy / f"{tiny.name}_finish")
    done = depthface("serve", "--repository", copy, "--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")
    assert (done.returncode, f"{tiny.name}_finish: config.pbtxt is missing" in done.stderr) == (1, True), done.stderr
