"""What Prometheus and Grafana are told, against what the server really exports."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest
import yaml
from fixtures.deploy import ROOT, composed, stages
from fixtures.photos import VARIETY

DEPLOY = ROOT / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboards" / "triton.json").read_text())
CONFIG = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
ALERTS = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())
SERVICES = composed()["services"]

# Exported where there is a GPU alone (docs/user_guide/metrics.md of Triton, "GPU Metrics"), with the label gpu_uuid.
GPU_METRICS = {
    "nv_energy_consumption",
    "nv_gpu_memory_total_bytes",
    "nv_gpu_memory_used_bytes",
    "nv_gpu_power_limit",
    "nv_gpu_power_usage",
    "nv_gpu_utilization",
}
OF_PROMETHEUS = {"up": {"job", "instance"}}

# Of a model that counts faces; the server of these tests has none.
OF_FACES = {f"depthface_faces_per_photo_{part}": {"model"} for part in ("bucket", "count", "sum")}

# One of each: nothing fires at rest; a restart, a recovery, a failure and many refusals do.
RULES_TEST = {
    "rule_files": ["alerts.yml"],
    "evaluation_interval": "15s",
    "tests": [
        {
            "interval": "15s",
            "input_series": [
                {"series": f'{name}{{model="m",instance="i",job="triton"}}', "values": values}
                for name, values in (
                    ("depthface_restarts", "0x40 1x120"),
                    ("depthface_recoveries", "0x40 1x120"),
                    ("depthface_failed_total", "0x40 3x120"),
                    ("depthface_refused_total", "0x40 0+5x60 300x60"),
                    ("nv_inference_request_success", "0x40 0+1x60 60x60"),
                    ("nv_inference_request_failure", "0x40 0+5x60 300x60"),
                )
            ],
            "promql_expr_test": [
                {
                    "expr": 'count by (alertname) (ALERTS{alertname=~"Server.*|Model.*",alertstate="firing"})',
                    "eval_time": eval_time,
                    "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in firing],
                }
                for eval_time, firing in (
                    ("9m", ()),
                    ("12m", ("ServerRestarted", "ModelRecovered", "ModelFails")),
                    ("22m", ("ServerRestarted", "ModelRecovered", "ModelRefuses")),
                    ("40m", ()),
                )
            ],
        }
    ],
}

DURATION = re.compile(r"\d+(ms|s|m|h|d)")


@pytest.fixture(scope="module")
def exported(server) -> dict[str, set[str]]:
    """Every metric of the embedded server and its labels, after a photo and after what is no photo."""
    for body in (VARIETY["tiny 40×30"], b"no photo"):
        url = f"http://{server.host}/v2/models/depth_anything_v2_small/infer"
        request = urllib.request.Request(url, body, {"Inference-Header-Content-Length": "0"})
        try:
            urllib.request.urlopen(request, timeout=60).close()
        except urllib.error.HTTPError as error:
            error.close()
    url = f"http://{server.host.rpartition(':')[0]}:{server.port('metrics')}/metrics"
    with urllib.request.urlopen(url, timeout=60) as answer:
        text = answer.read().decode()
    samples = re.findall(r"^(\w+)(\{.*\})? \S+$", text, re.MULTILINE)
    return {name: set(re.findall(r'(\w+)="', labels)) | {"instance"} for name, labels in samples}


def queries() -> list[str]:
    """All of PromQL that is in the dashboard and in the alerts, with Grafana's variables filled in."""
    of_panels = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    filled_in = [query.replace("$__rate_interval", "1m").replace("$model", ".+") for query in of_panels]
    return filled_in + [rule["expr"] for group in ALERTS["groups"] for rule in group["rules"]]


def parts(expression: Any) -> Iterator[Any]:
    """The nodes of a parsed query."""
    yield expression
    for name in ("expr", "lhs", "rhs", "vector_selector", "args"):
        below = getattr(expression, name, None)
        for child in below if isinstance(below, list) else [below]:
            if child is not None:
                yield from parts(child)


def names_and_labels(query: str) -> tuple[set[str], set[str]]:
    """The metrics that a query reads, and the labels that it selects or groups by."""
    nodes = list(parts(promql_parser.parse(query)))
    selectors = [node for node in nodes if isinstance(node, promql_parser.VectorSelector)]
    labels = {matcher.name for selector in selectors for matcher in selector.matchers.matchers}
    grouped = (node.modifier for node in nodes if isinstance(node, promql_parser.AggregateExpr) and node.modifier)
    return {selector.name for selector in selectors}, labels.union(*(modifier.labels for modifier in grouped))


@pytest.mark.parametrize("query", queries())
def test_a_query_asks_for_what_there_is(query, exported):
    known = exported | {name: {"gpu_uuid"} for name in GPU_METRICS} | OF_PROMETHEUS | OF_FACES
    names, labels = names_and_labels(query)
    assert names
    assert names <= set(known)
    assert labels <= set.union(*(known[name] for name in names))


def test_a_query_for_what_there_is_not_would_be_found(exported):
    names, labels = names_and_labels('sum by (modell) (rate(nv_inference_requests{modle="x"}[1m])) / nv_count')
    assert names == {"nv_inference_requests", "nv_count"}
    assert not names & set(exported)
    assert labels == {"modell", "modle"}


def test_legends_and_annotations_name_labels_that_their_queries_keep():
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                assert (
                    label == "gpu_uuid"
                    or label in names_and_labels(target["expr"].replace("$__rate_interval", "1m"))[1]
                )
    for rule in (rule for group in ALERTS["groups"] for rule in group["rules"]):
        for label in re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]):
            assert label == "gpu_uuid" or label in names_and_labels(rule["expr"])[1]


def test_the_variable_of_the_dashboard_is_filled_from_a_metric(exported):
    (variable,) = DASHBOARD["templating"]["list"]
    metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()
    assert variable["name"] == "model"
    assert label in exported[metric]


def test_prometheus_scrapes_the_port_that_triton_exposes():
    assert set(CONFIG) == {"global", "rule_files", "scrape_configs"}
    assert all(DURATION.fullmatch(CONFIG["global"][name]) for name in ("scrape_interval", "evaluation_interval"))
    (scrape,) = CONFIG["scrape_configs"]
    (target,) = scrape["static_configs"][0]["targets"]
    host, _, port = target.partition(":")
    for name in ("triton", "triton-cpu"):
        assert host in SERVICES[name]["networks"]["default"]["aliases"]
    assert port in stages()["serve"].values("EXPOSE")[0].split()
    assert scrape["job_name"] == "triton"  # by which the alerts ask


def test_prometheus_finds_its_files():
    prometheus = SERVICES["prometheus"]
    assert f"--config.file={mounted(prometheus, 'prometheus')}/prometheus.yml" in prometheus["command"]
    assert all((DEPLOY / "prometheus" / name).is_file() for name in CONFIG["rule_files"])


def test_alerts_have_the_form_of_rules():
    for rule in (rule for group in ALERTS["groups"] for rule in group["rules"]):
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert DURATION.fullmatch(rule.get("for", "0s"))
        assert rule["labels"]["severity"] in ("warning", "critical")


def test_promtool_takes_the_rules_and_the_configuration(tmp_path):
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is not installed (Debian: apt install prometheus)")
    for path in (DEPLOY / "prometheus").iterdir():
        shutil.copy(path, tmp_path)
    for command in (("rules", "alerts.yml"), ("config", "prometheus.yml")):
        done = subprocess.run([tool, "check", *command], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    (tmp_path / "test.yml").write_text(json.dumps(RULES_TEST))
    done = subprocess.run(
        [tool, "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_our_own_metrics_are_all_in_an_alert_or_in_the_dashboard(server):
    ours = {name.partition("{")[0] for name in server.metrics()}
    shown = set().union(*(names_and_labels(query)[0] for query in queries()))
    assert ours
    assert ours <= shown


def test_our_own_counters_are_there_from_the_load_on(server):
    """Each label's value that is known: what appears with its first event is not seen by `increase`."""
    metrics = server.metrics()
    for model in ("depth_anything_v2_small", "depth_anything_v2_small_network"):
        names = [f'depthface_{name}{{model="{model}"}}' for name in ("failed_total", "decode_failures_total")]
        names += [f'depthface_{name}{{model="{model}"}}' for name in ("recoveries", "restarts")]
        for reason in ("invalid_input", "invalid_image", "image_too_large", "no_face_found", "overloaded"):
            names.append(f'depthface_refused_total{{model="{model}",reason="{reason}"}}')
            assert f"`{reason}`" in (DEPLOY.parent / "docs" / "operating.md").read_text()
        assert set(names) <= set(metrics), set(names) - set(metrics)
    assert metrics['depthface_restarts{model="depth_anything_v2_small"}'] == 0


def test_grafana_finds_its_files():
    grafana = SERVICES["grafana"]
    provisioning = DEPLOY / "grafana" / "provisioning"
    assert mounted(grafana, "grafana/provisioning") == "/etc/grafana/provisioning"  # where Grafana looks
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    host, _, port = source["url"].removeprefix("http://").partition(":")
    assert SERVICES[host]["ports"][0].endswith(f":{port}")
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "depthface.yml").read_text())["providers"]
    assert provider["options"]["path"] == mounted(grafana, "grafana/dashboards")
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/triton.json"
    used = {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]}
    assert used == {source["uid"]}


def test_panels_do_not_lie_on_one_another():
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def mounted(service: dict, folder: str) -> str:
    """Where a folder of deploy/ is in the container."""
    (target,) = (volume.split(":")[1] for volume in service["volumes"] if volume.startswith(f"./deploy/{folder}:"))
    return target
