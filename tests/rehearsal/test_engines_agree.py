"""Both engines plan the same resources for every committed stack file, with everything of AWS still unknown."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from catalog.load import load as load_catalog
from planner import load_and_plan
from rehearsal import charts
from rehearsal.controlplane import binaries
from rehearsal.controlplane.cluster import ControlPlane
from rehearsal.controlplane.errors import ControlPlaneError
from rehearsal.engines.contract import Engine, EngineInputs, EngineUnavailable, ResourceRecord, RunResult
from rehearsal.engines.in_process import InProcessEngine
from rehearsal.engines.pulumi_cli import PulumiCliEngine
from rehearsal.engines.pulumi_command import find_pulumi
from rehearsal.stack_copy import copy_stack_file

ROOT = Path(__file__).parents[2]
STACKS = ("dev", "staging", "prod", "local")


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    try:
        find_pulumi()
        made = binaries.ensure("1.35", print)
    except (ControlPlaneError, EngineUnavailable) as reason:
        pytest.skip(str(reason))
    folder = tmp_path_factory.mktemp("plane")
    with ControlPlane.start(folder, made, token=secrets.token_urlsafe(), progress=print) as started:
        yield started


def inventory(result: RunResult) -> dict[str, tuple[object, ...]]:
    """What both engines must agree on."""
    return {item.urn: (item.type, item.name, item.parent, item.protect, item.custom) for item in result.resources}


def edges(resources: tuple[ResourceRecord, ...]) -> set[tuple[str, str]]:
    """What depends on what."""
    return {(item.urn, needed) for item in resources for needed in item.depends_on}


@pytest.mark.control_plane
@pytest.mark.parametrize("stack", STACKS)
def test_both_engines_plan_the_same(plane: ControlPlane, tmp_path: Path, stack: str) -> None:
    source = ROOT / f"Pulumi.{stack}.yaml"
    _, plan = load_and_plan(source)
    catalog = load_catalog()
    wanted = [catalog.versions.charts[name] for name in plan.charts]
    mirror = charts.mirror(tmp_path / "charts", wanted, catalog.crds, crd_dir=None, real_charts=None)
    copy = copy_stack_file(source, tmp_path / source.name, plan, mirror=mirror.directory, kubeconfig=plane.kubeconfig)
    inputs = EngineInputs(
        project_dir=ROOT,
        stack=stack,
        stack_file=copy,
        kubeconfig=plane.kubeconfig,
        endpoint=plane.endpoint,
        ca_data=plane.ca_data,
        token=plane.token,
        helm=plane.binaries.helm,
        workdir=tmp_path / "inside",
        region=plan.region or "us-east-1",
        progress=print,
    )
    try:
        real: Engine = PulumiCliEngine(replace(inputs, workdir=tmp_path / "real"))
    except EngineUnavailable as reason:
        pytest.skip(str(reason))
    inside: Engine = InProcessEngine(inputs)
    try:
        by_cli, by_mocks = real.preview(), inside.preview()
    finally:
        real.close()
        inside.close()
    assert by_cli.ok, by_cli.problems
    assert by_mocks.ok, by_mocks.problems
    assert inventory(by_cli) == inventory(by_mocks)
    assert edges(by_cli.resources) == edges(by_mocks.resources)
