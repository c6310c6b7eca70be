"""Custom resource kinds: current where the definitions are at hand, and complete for what the platform makes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from catalog import Catalog
from catalog.load import DIRECTORY
from catalog.tools import crds
from catalog.types import CrdKind

CRD_DIR = os.environ.get("CRD_DIR", "")


@pytest.mark.skipif(not CRD_DIR, reason="CRD_DIR names no directory of upstream definitions")
def test_the_file_is_what_the_script_writes() -> None:
    assert (DIRECTORY / "crds.yaml").read_text() == crds.render(Path(CRD_DIR))


def test_without_definitions_the_script_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CRD_DIR", raising=False)
    assert crds.main([]) == 2
    assert "CRD_DIR" in capsys.readouterr().err


def test_the_script_reads_a_definition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    definition = """\
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
spec:
  group: example.org
  names: {kind: Thing, plural: things, shortNames: [th]}
  scope: Namespaced
  versions:
    - {name: v1alpha1, served: false, storage: false}
    - {name: v1beta1, served: true, storage: false}
    - name: v1
      served: true
      storage: true
      subresources: {status: {}, scale: {specReplicasPath: .spec.n, statusReplicasPath: .status.n}}
      schema: {enum: [=]}
"""
    for folder in sorted(set(crds.load().crds)):
        (tmp_path / folder).mkdir()
    (tmp_path / "lws-v0.10.0" / "things.yaml").write_text(definition)
    (line,) = (line for line in crds.render(tmp_path).splitlines() if "example.org" in line)
    assert line.strip() == (
        "- {group: example.org, kind: Thing, plural: things, singular: thing, scope: Namespaced, "
        "versions: [v1, v1beta1], status: true, short_names: [th], "
        "scale: {spec_replicas: .spec.n, status_replicas: .status.n}}"
    )


def kinds(catalog: Catalog) -> dict[str, CrdKind]:
    return {f"{kind.plural}.{kind.group}": kind for crd_set in catalog.crds.values() for kind in crd_set.kinds}


def test_kinds_that_the_platform_makes(catalog: Catalog) -> None:
    known = kinds(catalog)
    for name in (
        "clusterpolicies.nvidia.com",
        "rayclusters.ray.io",
        "rayservices.ray.io",
        "leaderworkersets.leaderworkerset.x-k8s.io",
        "scaledobjects.keda.sh",
        "triggerauthentications.keda.sh",
        "servicemonitors.monitoring.coreos.com",
        "podmonitors.monitoring.coreos.com",
        "prometheusrules.monitoring.coreos.com",
        "certificates.cert-manager.io",
        "clusterissuers.cert-manager.io",
        "nodepools.karpenter.sh",
        "ec2nodeclasses.karpenter.k8s.aws",
        "podgroups.scheduling.volcano.sh",
        "queues.scheduling.volcano.sh",
        "gateways.gateway.networking.k8s.io",
        "httproutes.gateway.networking.k8s.io",
    ):
        assert name in known, name


def test_what_an_hpa_scales_has_a_scale_subresource(catalog: Catalog) -> None:
    scale = kinds(catalog)["leaderworkersets.leaderworkerset.x-k8s.io"].scale
    assert scale is not None
    assert (scale.spec_replicas, scale.status_replicas) == (".spec.replicas", ".status.replicas")
    assert scale.label_selector == ".status.hpaPodSelector"


def test_scopes(catalog: Catalog) -> None:
    known = kinds(catalog)
    assert known["clusterissuers.cert-manager.io"].scope == "Cluster"
    assert known["nodepools.karpenter.sh"].scope == "Cluster"
    assert known["rayservices.ray.io"].scope == "Namespaced"


def test_kinds_are_listed_once(catalog: Catalog) -> None:
    listed = [f"{kind.plural}.{kind.group}" for crd_set in catalog.crds.values() for kind in crd_set.kinds]
    assert len(listed) == len(set(listed))
