"""Pinned Helm charts as releases: from upstream, an OCI registry, a repository mirror or a directory."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pulumi
import pulumi_kubernetes as kubernetes

from planner.plan import ChartPlan

DEFAULT_TIMEOUT_SECONDS = 600
"""What Helm gives a release to become ready: image pulls on cold system nodes included."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChartSource:
    """What Helm is told about where a chart is."""

    chart: str
    """Name in `repository`, an `oci://` reference or a path."""
    repository: str | None


def source(chart: ChartPlan, project_dir: Path | None = None) -> ChartSource:
    """Finds a chart.

    Args:
        chart: the pinned chart.
        project_dir: what a relative mirror directory is relative to; the project's directory, in which Helm runs too.

    Raises:
        pulumi.RunError: the mirror directory holds none of the three forms of the chart.
    """
    if chart.directory is None:
        return ChartSource(chart=chart.chart, repository=chart.repository)
    return ChartSource(chart=str(Path(chart.directory) / _entry(chart, project_dir)), repository=None)


def source_for_injected_repository(chart: ChartPlan, project_dir: Path | None = None) -> ChartSource:
    """Finds a chart for a component that puts its own repository where none is given.

    A chart in a directory is then named as `chart` in the `repository` `./<relative folder>`: an absolute folder would
    be taken for a URL, and an absolute chart path would be looked up in the injected repository.

    Raises:
        pulumi.RunError: the mirror directory holds none of the three forms of the chart.
    """
    if chart.directory is None:
        return source(chart)
    base = project_dir or Path.cwd()
    relative = Path(os.path.relpath(base / chart.directory, base)).as_posix()
    folder = relative if relative.startswith("..") else f"./{relative}"
    return ChartSource(chart=_entry(chart, project_dir), repository=folder)


def _entry(chart: ChartPlan, project_dir: Path | None) -> str:
    """The name under which a mirror directory holds the chart."""
    folder = (project_dir or Path.cwd()) / (chart.directory or "")
    archive, versioned, plain = f"{chart.chart}-{chart.version}.tgz", f"{chart.chart}-{chart.version}", chart.chart
    if (folder / archive).is_file():
        return archive
    for name in (versioned, plain):
        # Helm itself takes a directory for a chart only where it finds Chart.yaml.
        if (folder / name / "Chart.yaml").is_file():
            return name
    raise pulumi.RunError(
        f"chart {chart.name} {chart.version} is not in the mirror directory {chart.directory}\n"
        f"  looked for {archive}, {versioned}/Chart.yaml and {plain}/Chart.yaml\n"
        f"  put it there with `helm pull`, or change `charts.mirror` in the stack file"
    )


def release(
    name: str,
    chart: ChartPlan,
    values: Mapping[str, Any],
    *,
    parent: pulumi.Resource,
    after: Sequence[pulumi.Resource] = (),
    timeout_seconds: int = DEFAULT_TIMEOUT_SECONDS,
    skip_crds: bool = False,
) -> kubernetes.helm.v3.Release:
    """Declares a chart as a Helm release of its catalog name, awaited and rolled back whole when it fails.

    Args:
        name: logical name.
        chart: the pinned chart.
        values: chart values, without secrets: Helm stores them in the cluster and Pulumi in its state.
        parent: the component; its Kubernetes provider is used.
        after: what must exist before, spelled out because children do not inherit their component's dependencies.
        timeout_seconds: how long its objects may take to become ready.
        skip_crds: leave out the chart's `crds/` folder, where something else owns those definitions.

    Raises:
        pulumi.RunError: a mirror directory lacks the chart.
    """
    place = source(chart)
    repository = kubernetes.helm.v3.RepositoryOptsArgs(repo=place.repository) if place.repository else None
    return kubernetes.helm.v3.Release(
        name,
        kubernetes.helm.v3.ReleaseArgs(
            name=chart.name,
            chart=place.chart,
            version=chart.version,
            repository_opts=repository,
            namespace=chart.namespace,
            # The namespace is ours: it carries pod security labels, which Helm would not set.
            create_namespace=False,
            values=dict(values),
            atomic=True,
            cleanup_on_fail=True,
            skip_crds=skip_crds,
            timeout=timeout_seconds,
        ),
        opts=pulumi.ResourceOptions(parent=parent, depends_on=list(after)),
    )
