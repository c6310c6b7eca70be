"""Chart mirrors and custom resource definitions: what is read, what stands in."""

from __future__ import annotations

import os
import subprocess
import tarfile
from datetime import date
from pathlib import Path

import pytest
import yaml

from catalog.types import Chart, CrdKind, CrdSet, Scale
from rehearsal import charts, crds
from rehearsal.controlplane import binaries
from rehearsal.controlplane.errors import ControlPlaneError

LWS = CrdKind(
    group="leaderworkerset.x-k8s.io",
    kind="LeaderWorkerSet",
    plural="leaderworkersets",
    singular="leaderworkerset",
    short_names=("lws",),
    scope="Namespaced",
    versions=("v1", "v1alpha1"),
    status=True,
    scale=Scale(spec_replicas=".spec.replicas", status_replicas=".status.replicas", label_selector=".status.selector"),
)

UPSTREAM = """\
# Copied from nowhere.
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: not-a-definition
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  annotations:
    controller-gen.kubebuilder.io/version: v0.19.0
  labels:
    name: not-this
  name: probes.monitoring.example.org
spec:
  names:
    name: nor-this
  enum:
    - =
    - "!="
"""


def chart(name: str, version: str, *components: str) -> Chart:
    return Chart(
        source="a test",
        as_of=date(2026, 1, 1),
        name=name,
        chart=f"oci://registry.example.org/charts/{name}",
        repository=None,
        version=version,
        crds=components,
    )


class TestDefinitions:
    def test_only_definitions_are_read(self, tmp_path: Path) -> None:
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / "all.yaml").write_text(UPSTREAM)
        (tmp_path / "notes.md").write_text("kind: CustomResourceDefinition")
        found = crds.load([tmp_path])
        assert [one.name for one in found] == ["probes.monitoring.example.org"]
        assert yaml.load(found[0].text, crds.Loader)["spec"]["enum"] == ["=", "!="]  # noqa: S506

    @pytest.mark.parametrize(
        "metadata",
        [
            "metadata: {name: a.b}",
            'metadata:\n    name: "a.b"',
            "metadata:\n  # why\n  name: a.b",
            "metadata:\n\n  name: 'a.b'",
        ],
    )
    def test_names_however_they_are_written(self, tmp_path: Path, metadata: str) -> None:
        (tmp_path / "crd.yaml").write_text(f"kind: CustomResourceDefinition\n{metadata}\nspec:\n  name: other\n")
        assert [one.name for one in crds.load([tmp_path / "crd.yaml"])] == ["a.b"]

    def test_no_name_and_no_folder(self, tmp_path: Path) -> None:
        (tmp_path / "crd.yaml").write_text("kind: CustomResourceDefinition\nspec: {}\n")
        with pytest.raises(ControlPlaneError, match=r"crd\.yaml holds a CRD without a name"):
            crds.load([tmp_path])
        with pytest.raises(ControlPlaneError, match="CRD_DIR"):
            crds.load([tmp_path / "absent"])

    def test_upstream(self) -> None:
        if not (crd_dir := os.environ.get("CRD_DIR")):
            pytest.skip("CRD_DIR names no upstream definitions")
        found = crds.load([Path(crd_dir)])
        text = "".join(file.read_text() for file in Path(crd_dir).rglob("*.yaml"))
        assert len(found) == len({one.name for one in found}) == text.count("\nkind: CustomResourceDefinition")
        assert all("." in one.name for one in found)

    def test_stand_in(self) -> None:
        made = yaml.safe_load(crds.stand_in(LWS).text)
        assert made["metadata"]["name"] == "leaderworkersets.leaderworkerset.x-k8s.io"
        stored, old = made["spec"]["versions"]
        assert (stored["name"], stored["storage"], old["storage"], old["served"]) == ("v1", True, False, True)
        assert stored["subresources"]["scale"]["labelSelectorPath"] == ".status.selector"
        assert "annotations" not in made["metadata"]

    def test_stand_in_in_a_group_of_kubernetes(self) -> None:
        plain = CrdKind(
            group="x.k8s.io", kind="A", plural="as", singular="a", scope="Cluster", versions=("v1",), status=False
        )
        made = yaml.safe_load(crds.stand_in(plain).text)
        assert made["metadata"]["annotations"]["api-approved.kubernetes.io"].startswith("unapproved")
        assert made["spec"]["versions"][0]["subresources"] == {}


class TestMirror:
    SETS = {"lws-v0.10.0": CrdSet(source="a test", as_of=date(2026, 1, 1), name="lws-v0.10.0", kinds=(LWS,))}  # noqa: RUF012

    def test_stand_ins_take_upstream_definitions_where_there_are_some(self, tmp_path: Path) -> None:
        crd_dir = tmp_path / "crds"
        (crd_dir / "lws-v0.10.0").mkdir(parents=True)
        (crd_dir / "lws-v0.10.0" / "all.yaml").write_text(UPSTREAM)
        pins = [chart("lws", "0.10.0", "lws-v0.10.0"), chart("fluent-bit", "0.58.1")]
        with_upstream = charts.mirror(tmp_path / "one", pins, self.SETS, crd_dir=crd_dir)
        without = charts.mirror(tmp_path / "two", pins, self.SETS)
        assert with_upstream.stand_ins == ("lws", "fluent-bit")
        assert with_upstream.real == ()
        folder = tmp_path / "one" / "lws-0.10.0"
        assert with_upstream.charts["lws"] == folder
        assert [file.name for file in (folder / "crds").iterdir()] == ["probes.monitoring.example.org.yaml"]
        assert [file.name for file in (without.charts["lws"] / "crds").iterdir()] == [
            "leaderworkersets.leaderworkerset.x-k8s.io.yaml"
        ]
        assert not (without.charts["fluent-bit"] / "crds").exists()
        assert [one.name for one in charts.crds_of(without.charts.values())] == [
            "leaderworkersets.leaderworkerset.x-k8s.io"
        ]

    def test_unknown_component(self, tmp_path: Path) -> None:
        with pytest.raises(KeyError, match="other-v1"):
            charts.mirror(tmp_path, [chart("other", "1.0.0", "other-v1")], self.SETS)

    @pytest.mark.parametrize("form", ["folder", "plain folder", "archive"])
    def test_real_charts_are_taken(self, tmp_path: Path, form: str) -> None:
        real = tmp_path / "real"
        source = real / ("lws" if form == "plain folder" else "lws-0.10.0")
        (source / "templates").mkdir(parents=True)
        (source / "Chart.yaml").write_text("{name: lws, version: v0.10.0}")
        (source / "templates" / "a.yaml").write_text("# real")
        if form == "archive":
            with tarfile.open(real / "lws-0.10.0.tgz", "w:gz") as archive:
                archive.add(source, "lws")
            source.rename(tmp_path / "away")
        made = charts.mirror(tmp_path / "m", [chart("lws", "0.10.0", "lws-v0.10.0")], self.SETS, real_charts=real)
        assert (made.real, made.stand_ins) == (("lws",), ())
        assert (made.charts["lws"] / "templates" / "a.yaml").read_text() == "# real"
        assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["lws-0.10.0"]

    def test_what_is_no_real_chart(self, tmp_path: Path) -> None:
        real = tmp_path / "real"
        (real / "lws-0.10.0").mkdir(parents=True)
        (real / "lws-0.10.0" / "Chart.yaml").write_text("{name: lws, version: 0.10.0}")  # no templates: a description
        (real / "lws" / "templates").mkdir(parents=True)
        (real / "lws" / "Chart.yaml").write_text("{name: lws, version: 0.9.0}")  # another version
        pins = [chart("lws", "0.10.0", "lws-v0.10.0")]
        assert charts.mirror(tmp_path / "m", pins, self.SETS, real_charts=real).stand_ins == ("lws",)
        (real / "lws-0.10.0.tgz").write_bytes(b"no archive")
        with pytest.raises(ControlPlaneError, match=r"lws-0\.10\.0\.tgz"):
            charts.mirror(tmp_path / "n", pins, self.SETS, real_charts=real)

    def test_folders_that_are_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(ControlPlaneError, match="Mend CRD_DIR") as caught:
            charts.mirror(tmp_path / "m", [], {}, crd_dir=tmp_path / "absent")
        assert "absent" in caught.value.what


@pytest.mark.control_plane
def test_helm_reads_a_stand_in_chart(tmp_path: Path) -> None:
    definition = crds.stand_in(LWS)
    folder = charts.stand_in_chart(tmp_path, "lws", "0.10.0", [definition], node_selector={"role": "system"})
    helm = binaries.ensure("1.35", print).helm
    lint = subprocess.run([helm, "lint", "--strict", folder], capture_output=True, text=True, check=False)
    assert lint.returncode == 0, lint.stdout
    rendered = subprocess.run(
        [helm, "template", "name", folder, "--include-crds", "--set", "any.value=1"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    documents = {document["kind"]: document for document in yaml.safe_load_all(rendered)}
    assert documents["CustomResourceDefinition"]["metadata"]["name"] == definition.name
    assert documents["Deployment"]["spec"]["template"]["spec"]["nodeSelector"] == {"role": "system"}
