"""Pins: nothing floats, everything that one names exists."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from catalog import Catalog
from catalog.load import DIRECTORY

FLOATING = re.compile(r"latest|main|master|nightly|edge|stable|[*^~<>x]$", re.IGNORECASE)


def test_charts_are_pinned_exactly(catalog: Catalog) -> None:
    for name, chart in catalog.versions.charts.items():
        assert re.fullmatch(r"v?\d+\.\d+\.\d+", chart.version), name
        assert chart.chart.startswith("oci://") == (chart.repository is None), name
        assert chart.repository is None or chart.repository.startswith("https://"), name


def test_images_are_pinned_exactly(catalog: Catalog) -> None:
    for name, image in catalog.versions.images.items():
        assert not FLOATING.search(image.tag), name
        assert re.search(r"\d+\.\d+", image.tag), name
        assert image.reference.startswith(f"{image.repository}:{image.tag}"), name


def test_every_chart_and_upstream_engine_image_has_an_updater() -> None:
    lines = (DIRECTORY / "versions.yaml").read_text().splitlines()
    section, unmarked = "", []
    for before, line in itertools.pairwise(lines):
        if re.match(r"\w", line):
            section = line
        key = re.fullmatch(r"  ([\w-]+):", line)
        wanted = section == "charts:" or (section == "images:" and line in ("  vllm:", "  sglang:", "  ray-llm:"))
        if key and wanted and not before.strip().startswith("# renovate: datasource="):
            unmarked.append(key[1])
    assert unmarked == []


def test_renovate_names_the_chart_beneath_it(catalog: Catalog) -> None:
    text = (DIRECTORY / "versions.yaml").read_text()
    found = re.findall(r"# renovate: datasource=\w+ depName=(\S+)(?: registryUrl=(\S+))?\n  ([\w-]+):", text)
    charts = catalog.versions.charts
    assert {key for _, _, key in found} >= set(charts)
    for dependency, registry, key in found:
        if key in charts:
            chart = charts[key]
            assert dependency == chart.chart.removeprefix("oci://")
            assert (registry or None) == chart.repository


def test_custom_resources_of_charts_are_known(catalog: Catalog) -> None:
    named = {folder for chart in catalog.versions.charts.values() for folder in chart.crds}
    assert named == set(catalog.crds)
    for name, chart in catalog.versions.charts.items():
        assert (chart.crds_from == "none") == (not chart.crds), name


def test_engine_and_image_name_each_other(catalog: Catalog) -> None:
    images = catalog.versions.images
    for name, engine in catalog.engines.items():
        image = images[engine.image]
        assert image.engine == name
        assert engine.version in image.tag
    for name, image in images.items():
        assert image.engine is None or image.engine in catalog.engines, name
        assert image.built_from is None or images[image.built_from].engine == image.engine, name


def test_every_engine_has_an_image_with_efa(catalog: Catalog) -> None:
    for engine in catalog.engines:
        assert any(i.engine == engine and i.carries_efa == "yes" for i in catalog.versions.images.values()), engine


def test_gpu_nodes_have_a_driver_that_every_engine_runs_on(catalog: Catalog) -> None:
    drivers = [ami.driver_branch for ami in catalog.versions.amis.values() if ami.driver_branch is not None]
    needed = {name: engine.least_driver_branch for name, engine in catalog.engines.items()}
    assert drivers
    assert all(driver >= least for driver in drivers for least in needed.values()), (drivers, needed)


def test_upstream_engine_images_are_known_to_lack_efa(catalog: Catalog) -> None:
    assert {catalog.versions.images[e.image].carries_efa for e in catalog.engines.values()} == {"no"}


def test_kubernetes_versions(catalog: Catalog) -> None:
    versions = catalog.versions
    assert sorted(versions.kubernetes) == ["1.34", "1.35", "1.36"]
    assert versions.default_kubernetes == "1.35"
    ends = [versions.kubernetes[v].end_of_standard_support.isoformat() for v in sorted(versions.kubernetes)]
    assert ends == ["2026-12-02", "2027-03-27", "2027-08-02"]


@pytest.mark.parametrize("kubernetes", ["1.34", "1.35", "1.36"])
def test_amis_and_cluster_bound_addons_follow_the_kubernetes_version(kubernetes: str, catalog: Catalog) -> None:
    for ami in catalog.versions.amis.values():
        assert re.fullmatch(rf"{re.escape(kubernetes)}\.\d+-\d{{8}}", ami.releases[kubernetes]), ami.name
    proxy = catalog.versions.addons["kube-proxy"].version_for(kubernetes)
    assert proxy is not None
    assert proxy.startswith(f"v{kubernetes}.")
    assert catalog.versions.addons["coredns"].version_for(kubernetes)


def test_all_amis_are_of_one_release_date(catalog: Catalog) -> None:
    dates = {release.rpartition("-")[2] for ami in catalog.versions.amis.values() for release in ami.releases.values()}
    assert len(dates) == 1


def test_addons_are_pinned_or_have_a_floor(catalog: Catalog) -> None:
    build = re.compile(r"v\d+\.\d+\.\d+-eksbuild\.\d+")
    for name, addon in catalog.versions.addons.items():
        pins = [addon.version_for(kubernetes) for kubernetes in catalog.versions.kubernetes]
        assert all(pins) or addon.minimum_version, name
        assert all(build.fullmatch(pin) for pin in [*pins, addon.minimum_version] if pin), name


def test_the_cni_is_new_enough_for_efa_only_interfaces(catalog: Catalog) -> None:
    addon = catalog.versions.addons["vpc-cni"]
    pinned = addon.version_for("1.35")
    assert pinned is not None
    numbers = [tuple(int(n) for n in re.findall(r"\d+", v)) for v in (pinned, addon.minimum_version or "")]
    assert numbers[0] >= numbers[1] >= (1, 18, 5, 1)


def test_networking_comes_before_nodes(catalog: Catalog) -> None:
    before = {name for name, addon in catalog.versions.addons.items() if addon.phase == "before_nodes"}
    assert before == {"vpc-cni", "kube-proxy", "eks-pod-identity-agent"}


def test_upstream_versions_agree_with_each_other(catalog: Catalog) -> None:
    """A chart and the custom resources recorded for it are of one release."""
    charts = catalog.versions.charts
    for name in (
        "gpu-operator",
        "kuberay-operator",
        "lws",
        "keda",
        "cert-manager",
        "karpenter-crd",
        "volcano",
        "kueue",
    ):
        number = charts[name].version.lstrip("v")
        assert any(folder.endswith(f"-v{number}") for folder in charts[name].crds), name
    assert charts["kube-prometheus-stack"].crds == (
        f"prometheus-operator-{charts['kube-prometheus-stack'].app_version}",
    )


def test_the_catalog_holds_only_data_files_and_their_code() -> None:
    suffixes = {path.suffix for path in Path(DIRECTORY).iterdir() if path.is_file()}
    assert suffixes == {".py", ".yaml"}
