"""A mirror of charts in a folder, as an air-gapped user would have: real charts where given, stand-ins elsewhere.

A stand-in chart has the name, the version and the CRDs of the real one, takes any values, and installs one small
Deployment. It is enough to see that a release is declared, ordered, installed, awaited and removed; what the real
chart's templates make of the values is not seen, and the rehearsal's report says which charts were stand-ins.
"""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from catalog.types import Chart, CrdSet
from rehearsal.controlplane.errors import ControlPlaneError
from rehearsal.crds import Definition, load, stand_in

# Small, published by Kubernetes itself, and does nothing; no image is pulled in a rehearsal anyway.
_IMAGE = "registry.k8s.io/pause:3.10"

STAND_IN_CONTAINER = "stand-in"
"""Of the pod that stands in for a chart's."""

_DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{{{ .Release.Name }}}}-stand-in
  namespace: {{{{ .Release.Namespace }}}}
  labels:
    app.kubernetes.io/name: {name}
    app.kubernetes.io/instance: {{{{ .Release.Name }}}}
    app.kubernetes.io/managed-by: {{{{ .Release.Service }}}}
spec:
  replicas: 1
  selector:
    matchLabels:
      app.kubernetes.io/name: {name}
      app.kubernetes.io/instance: {{{{ .Release.Name }}}}
  template:
    metadata:
      labels:
        app.kubernetes.io/name: {name}
        app.kubernetes.io/instance: {{{{ .Release.Name }}}}
    spec:
      nodeSelector: {selector}
      tolerations:
        - {{key: CriticalAddonsOnly, operator: Exists}}
      # Fit for namespaces that enforce the `restricted` Pod Security Standard.
      securityContext: {{runAsNonRoot: true, runAsUser: 65534, seccompProfile: {{type: RuntimeDefault}}}}
      containers:
        - name: {container}
          image: {image}
          securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
          resources:
            requests: {{cpu: 10m, memory: 16Mi}}
            limits: {{memory: 16Mi}}
"""


@dataclass(frozen=True, kw_only=True)
class Mirror:
    """A folder with one chart folder for each pin, and which of them are real."""

    directory: Path
    charts: Mapping[str, Path]
    real: tuple[str, ...]
    stand_ins: tuple[str, ...]


def stand_in_chart(
    directory: Path,
    name: str,
    version: str,
    crds: Sequence[Path | Definition] = (),
    *,
    node_selector: Mapping[str, str] | None = None,
) -> Path:
    """Write a chart `<name>-<version>/` below `directory` and return its folder.

    Args:
        crds: files and folders of CRDs, or definitions; they go into the chart's crds/ folder.
        node_selector: where its pod runs; by default any node whose taints allow it, which GPU nodes' do not.
    """
    chart = directory / f"{name}-{version}"
    shutil.rmtree(chart, ignore_errors=True)
    (chart / "templates").mkdir(parents=True)
    about = {
        "apiVersion": "v2",
        "name": name,
        "version": version,
        "appVersion": version.removeprefix("v"),
        "description": f"Stands in for the chart {name} in a rehearsal.",
        "type": "application",
    }
    (chart / "Chart.yaml").write_text(yaml.safe_dump(about, sort_keys=False))
    (chart / "values.yaml").write_text("{}\n")
    selector = yaml.safe_dump(dict(node_selector or {}), default_flow_style=True).strip()
    deployment = _DEPLOYMENT.format(name=name, selector=selector, image=_IMAGE, container=STAND_IN_CONTAINER)
    (chart / "templates" / "deployment.yaml").write_text(deployment)
    definitions = [one for one in crds if isinstance(one, Definition)]
    definitions += load(one for one in crds if isinstance(one, Path))
    if definitions:
        (chart / "crds").mkdir()
        for definition in definitions:
            (chart / "crds" / f"{definition.name}.yaml").write_text(definition.text)
    return chart


def mirror(
    directory: Path,
    charts: Iterable[Chart],
    crds: Mapping[str, CrdSet],
    *,
    crd_dir: Path | None = None,
    real_charts: Path | None = None,
    node_selector: Mapping[str, str] | None = None,
) -> Mirror:
    """Make a mirror with a folder for each chart.

    Args:
        directory: where the chart folders `<name>-<version>/` go.
        charts: the pinned charts of the catalog.
        crds: the catalog's custom resources by folder of CRD_DIR; what `crd_dir` lacks is let through unchecked.
        crd_dir: a folder with `<component>-<version>/*.yaml`, CRDs of upstream, for stand-ins.
        real_charts: a folder with real charts: `<name>-<version>/`, `<name>-<version>.tgz` or `<name>/`.
        node_selector: where the pods of stand-ins run.

    Raises:
        ControlPlaneError: a folder that is named but not there, or an archive that cannot be read.
    """
    for given, variable in ((crd_dir, "CRD_DIR"), (real_charts, "the folder of charts")):
        if given is not None and not given.is_dir():
            raise ControlPlaneError(f"There is no folder {given}.", f"Mend {variable}, or leave it out.")
    directory.mkdir(parents=True, exist_ok=True)
    folders: dict[str, Path] = {}
    real: list[str] = []
    for chart in charts:
        name = chart_name(chart)
        found = None if real_charts is None else _copy_real(real_charts, directory, name, chart.version)
        if found is None:
            definitions = [one for component in chart.crds for one in component_crds(component, crds, crd_dir)]
            found = stand_in_chart(directory, name, chart.version, definitions, node_selector=node_selector)
        else:
            real.append(name)
        folders[name] = found
    return Mirror(
        directory=directory,
        charts=folders,
        real=tuple(real),
        stand_ins=tuple(name for name in folders if name not in real),
    )


def chart_name(chart: Chart) -> str:
    """The chart's own name: the last part of an `oci://` reference."""
    return chart.chart.rsplit("/", 1)[-1]


def component_crds(component: str, crds: Mapping[str, CrdSet], crd_dir: Path | None) -> list[Definition]:
    """The definitions of a component such as `kuberay-v1.7.0`: upstream's where `crd_dir` has them, else stand-ins.

    Raises:
        KeyError: neither `crd_dir` nor the catalog knows the component.
    """
    if crd_dir is not None and (crd_dir / component).is_dir():
        return load([crd_dir / component])
    return [stand_in(kind) for kind in crds[component].kinds]


def _copy_real(real_charts: Path, directory: Path, name: str, version: str) -> Path | None:
    target = directory / f"{name}-{version}"
    for folder in (real_charts / target.name, real_charts / name):
        # A chart without templates is a chart's description only.
        if (folder / "templates").is_dir() and _says(folder / "Chart.yaml", version):
            shutil.copytree(folder, target, dirs_exist_ok=True)
            return target
    archive = real_charts / f"{target.name}.tgz"
    if not archive.is_file():
        return None
    shutil.rmtree(target, ignore_errors=True)
    unpacked = directory / f".{target.name}"
    try:
        with tarfile.open(archive) as opened:
            opened.extractall(unpacked, filter="data")
        (unpacked / name).rename(target)
    except (tarfile.TarError, OSError) as error:
        raise ControlPlaneError(f"{archive} is no chart archive of {name} ({error}).", "Pull it anew.") from error
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)
    return target


def _says(about: Path, version: str) -> bool:
    try:
        found = yaml.safe_load(about.read_text())["version"]
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return False
    return str(found).removeprefix("v") == version.removeprefix("v")


def crds_of(charts: Iterable[Path]) -> list[Definition]:
    """The CRDs in the crds/ folders of charts and of the charts inside them."""
    folders = [folder for chart in charts for folder in sorted(chart.rglob("crds")) if folder.is_dir()]
    return load(folders)
