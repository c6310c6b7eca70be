"""Chart values: their goldens, their keys against the upstream charts, and every image behind the mirror.

Goldens: `make golden` writes them; review the difference.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pulumi_kubernetes_cert_manager import CertManagerArgs

from components import certificates
from policy.rules.pods import floats
from tests.components.releases import MIRROR, all_values, gpu_values, monitoring_values, pinned
from tests.upstream import chart_folder, chart_values, needs_chart_values

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "values"
CASES = {
    **{name: values for name, values in all_values().items() if name != "gpu-operator"},
    "gpu-operator-preinstalled": gpu_values("preinstalled"),
    "gpu-operator-managed": gpu_values("operator"),
    "gpu-operator-mirrored": gpu_values("preinstalled", MIRROR),
    "kube-prometheus-stack-mirrored": monitoring_values(MIRROR),
}

SUBCHARTS = {
    # The versions that Chart.yaml of the pinned parents names.
    "gpu-operator": {"node-feature-discovery": "0.19.0"},
    "kube-prometheus-stack": {
        "grafana": "12.11.1",
        "kube-state-metrics": "8.4.0",
        "prometheus-node-exporter": "4.56.1",
    },
}
FREE = {
    # Flags of the program itself.
    "cluster-autoscaler": {"extraArgs"},
    # Goes into the pod as it is.
    "lws": {"podSecurityContext"},
}
COMMENTED = {
    # Keys that the templates read, but values.yaml only shows as comments.
    "gpu-operator": {"dcgmExporter.config"},
    "kuberay-operator": {"resources.requests"},
    "lws": {"resources.limits"},
}


class Plain(yaml.SafeDumper):
    """Writes a value that occurs twice twice: a golden is read by people."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


@pytest.mark.parametrize("case", sorted(CASES))
def test_golden_values_are_as_reviewed(case: str) -> None:
    text = yaml.dump(CASES[case], Dumper=Plain, sort_keys=True, width=120)
    path = GOLDEN / f"{case}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert path.read_text() == text, f"{path.name} differs; UPDATE_GOLDEN=1 writes it"


def test_no_golden_is_left_over() -> None:
    assert {path.stem for path in GOLDEN.glob("*.yaml")} == set(CASES)


def upstream(name: str) -> dict[str, Any]:
    """Default values of a pinned chart, those of its subcharts under their names."""
    found = dict(chart_values(name, pinned(name).version))
    for subchart, version in SUBCHARTS.get(name, {}).items():
        found[subchart] = merged(chart_values(subchart, version), found.get(subchart, {}))
    return found


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """As Helm merges values: maps key by key, everything else replaced."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def unknown(ours: Mapping[str, Any], theirs: Mapping[str, Any], free: set[str], path: str = "") -> Iterator[str]:
    """Paths of keys that the chart does not have; an empty map of the chart takes any key."""
    for key, value in ours.items():
        here = f"{path}{key}"
        if key not in theirs:
            yield here
        elif here not in free and isinstance(value, Mapping):
            known = theirs[key]
            if isinstance(known, Mapping):
                yield from unknown(value, known, free, f"{here}.") if known else ()
            elif known is not None:
                yield f"{here} (the chart has {known!r} there)"


@needs_chart_values
@pytest.mark.parametrize("mirror", [None, MIRROR])
@pytest.mark.parametrize("name", sorted(all_values()))
def test_every_key_is_one_of_the_chart(name: str, mirror: str | None) -> None:
    commented = COMMENTED.get(name, set())
    values = all_values(mirror)[name]
    assert [key for key in unknown(values, upstream(name), FREE.get(name, set())) if key not in commented] == []
    text = (chart_folder(name, pinned(name).version) / "values.yaml").read_text()
    for key in commented:
        leaf = key.rpartition(".")[2]
        assert re.search(rf"^\s*#\s*{leaf}:", text, re.MULTILINE), f"{key}: the chart does not even mention it"


@needs_chart_values
def test_the_check_sees_a_mistyped_key() -> None:
    theirs = {"a": {"b": 1}, "free": {}, "text": "x"}
    assert list(unknown({"a": {"c": 1}}, theirs, set())) == ["a.c"]
    assert list(unknown({"free": {"any": {"thing": 1}}}, theirs, set())) == []
    assert list(unknown({"text": {"k": 1}}, theirs, set())) == ["text (the chart has 'x' there)"]


@needs_chart_values
@pytest.mark.parametrize("mirror", [None, MIRROR])
def test_cert_managers_values_pass_its_schema(mirror: str | None) -> None:
    schema = json.loads(
        (chart_folder("cert-manager", pinned("cert-manager").version) / "values.schema.json").read_text()
    )
    jsonschema.validate(all_values(mirror)["cert-manager"], schema)


@needs_chart_values
def test_what_cert_managers_component_knows_goes_through_its_inputs() -> None:
    """The component writes its own inputs over values of the same name, even those left out."""
    known = {getter.fget._pulumi_name for getter in vars(CertManagerArgs).values() if hasattr(getter, "fget")}
    values = certificates.values(certificates.CertificatesArgs(chart=pinned("cert-manager"), image_mirror=MIRROR))
    assert known & set(values) == set()
    assert set(certificates.inputs()) <= known


RUNNING = {
    # Where images that run here are named: (path of registry or repository, what is at that path).
    "gpu-operator": [
        "validator.repository",
        "operator.repository",
        "driver.repository",
        "driver.manager.repository",
        "toolkit.repository",
        "devicePlugin.repository",
        "dcgmExporter.repository",
        "gfd.repository",
        "migManager.repository",
        "node-feature-discovery.image.repository",
    ],
    "kube-prometheus-stack": [
        "alertmanager.alertmanagerSpec.image.registry",
        "prometheusOperator.image.registry",
        "prometheusOperator.prometheusConfigReloader.image.registry",
        "prometheusOperator.thanosImage.registry",
        "prometheus.prometheusSpec.image.registry",
        "grafana.image.registry",
        "grafana.sidecar.image.registry",
        "kube-state-metrics.image.registry",
        "prometheus-node-exporter.image.registry",
    ],
    "keda": ["image.keda.registry", "image.metricsApiServer.registry", "image.webhooks.registry"],
    "lws": ["image.manager.repository"],
    "kuberay-operator": ["image.repository"],
    "cluster-autoscaler": ["image.repository"],
    "cert-manager": ["imageRegistry"],
    "aws-efa-k8s-device-plugin": ["image.repository"],
}


def at(values: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path."""
    for key in path.split("."):
        values = values[key]
    return values


@needs_chart_values
@pytest.mark.parametrize("name", sorted(RUNNING))
def test_every_image_that_runs_comes_from_the_mirror_under_its_upstream_name(name: str) -> None:
    charts, ours = upstream(name), all_values(MIRROR)[name]
    effective = merged(charts, ours)
    for path in RUNNING[name]:
        expected = str(at(charts, path))
        if name == "aws-efa-k8s-device-plugin":
            expected = expected.replace("us-west-2", "eu-west-1")
        assert at(effective, path) == f"{MIRROR}/{expected}", path


@needs_chart_values
@pytest.mark.parametrize("name", sorted(RUNNING))
def test_without_a_mirror_images_are_the_charts_own(name: str) -> None:
    charts, effective = upstream(name), merged(upstream(name), all_values()[name])
    for path in RUNNING[name]:
        expected = str(at(charts, path))
        if name == "aws-efa-k8s-device-plugin":
            expected = expected.replace("us-west-2", "eu-west-1")
        assert at(effective, path) == expected, path


def floating(values: Mapping[str, Any], path: str) -> str | None:
    """Why the image named at a path may change; a chart without a tag takes that of its own version."""
    image = at(values, path.rpartition(".")[0]) if "." in path else {}
    tag = str(image.get("tag") or image.get("version") or "")
    return floats(f"image:{tag}") if tag and not image.get("digest") else None


@needs_chart_values
@pytest.mark.parametrize("name", sorted(RUNNING))
def test_no_image_that_runs_floats(name: str) -> None:
    effective = merged(upstream(name), all_values()[name])
    assert [path for path in RUNNING[name] if floating(effective, path)] == []


def test_a_floating_image_of_a_chart_is_seen() -> None:
    assert floating({"image": {"manager": {"repository": "lws", "tag": "main"}}}, "image.manager.repository")
    assert not floating({"image": {"manager": {"repository": "lws", "tag": ""}}}, "image.manager.repository")


@needs_chart_values
@pytest.mark.parametrize("name", sorted(SUBCHARTS))
def test_subcharts_are_those_of_the_pinned_parent(name: str) -> None:
    parent = yaml.safe_load((chart_folder(name, pinned(name).version) / "Chart.yaml").read_text())
    named = {entry["name"]: entry["version"] for entry in parent["dependencies"]}
    assert {key: named[key] for key in SUBCHARTS[name]} == SUBCHARTS[name]


def test_only_the_operator_brings_driver_and_toolkit_where_the_image_has_none() -> None:
    for software, enabled in (("preinstalled", False), ("operator", True)):
        values = gpu_values(software)
        assert (values["driver"]["enabled"], values["toolkit"]["enabled"]) == (enabled, enabled)
        assert values["cdi"]["nriPluginEnabled"] is False


@pytest.mark.parametrize(("interval", "timeout"), [(5, "5s"), (15, "10s"), (60, "10s")])
def test_a_scrape_never_takes_longer_than_its_interval(interval: int, timeout: str) -> None:
    monitor = gpu_values(interval=interval)["dcgmExporter"]["serviceMonitor"]
    assert (monitor["interval"], monitor["scrapeTimeout"]) == (f"{interval}s", timeout)


def test_the_clusters_default_class_is_used_where_none_is_named() -> None:
    def claim(storage_class: str | None) -> dict[str, Any]:
        spec = monitoring_values(storage_class=storage_class)["prometheus"]["prometheusSpec"]
        return spec["storageSpec"]["volumeClaimTemplate"]["spec"]

    assert "storageClassName" not in claim(None)
    assert claim("fast")["storageClassName"] == "fast"
