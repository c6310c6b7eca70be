"""Stack copies, faults, the fidelity page, settling and verdicts, without a control plane."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from planner import load_and_plan
from planner.plan import Plan
from rehearsal import fidelity, verdicts
from rehearsal.engines.contract import Change, RunResult
from rehearsal.injections import INJECTIONS, NotApplicableError, World, forget_field, healthy_world, planned_secrets
from rehearsal.kube import JOBS, PODS
from rehearsal.kubelet import Killed
from rehearsal.operators import STAND_IN_VALUE, Operators, operators
from rehearsal.quantities import amount, fits, requests_of
from rehearsal.run import RehearsalError, RehearsalOptions, rehearse
from rehearsal.settle import findings_of, settle
from rehearsal.stack_copy import copy_stack_file
from settings.errors import PLATFORM_KEY
from settings.secrets import PulumiSecret
from tests.factories import ROOT, STACKS, stack_plan
from tests.rehearsal.fakes import READY, UNSCHEDULABLE, FakeKube, container, pod
from tests.stacks import changed


@pytest.mark.parametrize("stack", STACKS)
def test_the_copy_plans_the_same_but_for_charts(stack: str, tmp_path: Path) -> None:
    plan = stack_plan(stack)
    source = ROOT / f"Pulumi.{stack}.yaml"
    before = source.read_bytes()
    copy = copy_stack_file(
        source, tmp_path / source.name, plan, mirror=tmp_path / "charts", kubeconfig=tmp_path / "kubeconfig"
    )
    again = load_and_plan(copy)[1]
    assert {chart.directory for chart in again.charts.values()} == {str(tmp_path / "charts")}
    if again.target.kind == "existing_cluster":
        assert again.target.kubeconfig == str(tmp_path / "kubeconfig")
    assert replace(again, charts=plan.charts, target=plan.target) == plan
    assert source.read_bytes() == before


def test_the_copy_holds_no_secret_of_the_user(tmp_path: Path) -> None:
    source = tmp_path / "Pulumi.dev.yaml"
    document: Any = yaml.safe_load((ROOT / "Pulumi.dev.yaml").read_text())
    document["encryptionsalt"] = "v1:salt"
    document["config"]["inference-platform:grafanaPassword"] = {"secure": "v1:cipher"}
    document["config"][PLATFORM_KEY]["observability"] = {"grafana_admin": {"kind": "pulumi", "name": "grafanaPassword"}}
    source.write_text(yaml.safe_dump(document))
    plan = load_and_plan(source)[1]
    assert any(isinstance(secret.source, PulumiSecret) for secret in planned_secrets(plan))
    copy = copy_stack_file(source, tmp_path / "copy.yaml", plan, mirror=tmp_path, kubeconfig=tmp_path)
    text = copy.read_text()
    assert "v1:" not in text
    assert yaml.safe_load(text)["config"]["inference-platform:grafanaPassword"] == STAND_IN_VALUE


def test_a_key_of_a_secret_of_aws_is_not_looked_for_in_what_stands_in(tmp_path: Path) -> None:
    arn = "arn:aws:secretsmanager:us-east-1:111122223333:secret:keys-AbCdEf"
    key = {"kind": "secrets_manager", "arn": arn, "key": "llama"}
    source = changed(tmp_path, "dev", {"models.0.api_key": key})
    copy = copy_stack_file(
        source, tmp_path / "copy.yaml", load_and_plan(source)[1], mirror=tmp_path, kubeconfig=tmp_path
    )
    model = yaml.safe_load(copy.read_text())["config"]["inference-platform:platform"]["models"][0]
    assert model["api_key"] == {"kind": "secrets_manager", "arn": arn}


@pytest.mark.parametrize("name", INJECTIONS)
def test_a_fault_changes_exactly_one_thing(name: str) -> None:
    world = replace(healthy_world(stack_plan("prod"), {}), scenarios=("spot-reclaim",))
    broken = INJECTIONS[name].change(world)
    changed = [field for field in World.__slots__ if getattr(world, field) != getattr(broken, field)]  # type: ignore[attr-defined]
    assert len(changed) == 1


@pytest.mark.parametrize(("stack", "name"), [("dev", "efa-on-tcp"), ("dev", "checksum"), ("local", "no-capacity")])
def test_a_fault_that_breaks_nothing_is_refused(stack: str, name: str) -> None:
    with pytest.raises(NotApplicableError):
        INJECTIONS[name].change(healthy_world(stack_plan(stack), {}))
    with pytest.raises(RehearsalError) as raised:
        rehearse(ROOT / f"Pulumi.{stack}.yaml", RehearsalOptions(inject=name))
    assert raised.value.exit_code == 2


def test_a_job_waits_for_a_revision_that_is_not_staged() -> None:
    world = INJECTIONS["not-staged"].change(healthy_world(stack_plan("prod"), {}))
    endless = {name for name, outcome in world.outcomes.items() if outcome.seconds > 1e8}
    assert endless == {one.name for one in world.plan.warmups if one.weights.object_prefix in world.unstaged}
    assert len(endless) == 1
    with pytest.raises(NotApplicableError, match="no bucket"):
        INJECTIONS["not-staged"].change(healthy_world(stack_plan("local"), {}))


def test_an_unknown_fault_names_the_known_ones() -> None:
    with pytest.raises(RehearsalError, match="missing-secret") as raised:
        rehearse(ROOT / "Pulumi.dev.yaml", RehearsalOptions(inject="meteor"))
    assert raised.value.exit_code == 2


@pytest.mark.parametrize("permissive", [True, False])
def test_the_field_is_forgotten(tmp_path: Path, permissive: bool) -> None:
    spec: Any = {
        "type": "object",
        "required": ["podMetricsEndpoints", "selector"],
        "properties": {"podMetricsEndpoints": {"type": "array"}, "selector": {"type": "object"}},
    }
    schema: Any = {"type": "object", "properties": {"spec": spec}}
    if permissive:
        schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    definition = {
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "podmonitors.monitoring.coreos.com"},
        "spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": schema}}]},
    }
    file = tmp_path / "chart" / "crds" / "crd.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(yaml.safe_dump(definition))
    forget_field(tmp_path)
    made = yaml.safe_load(file.read_text())["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    assert "x-kubernetes-preserve-unknown-fields" not in made
    assert list(made["properties"]["spec"]["properties"]) == ["selector"]
    assert "podMetricsEndpoints" not in made["properties"]["spec"].get("required", [])


def test_fidelity_page_is_up_to_date() -> None:
    assert fidelity.PAGE.read_text() == fidelity.page(), "run `python -m rehearsal.fidelity`"


def test_fidelity_says_what_holds_for_a_rehearsal() -> None:
    pulumi = fidelity.parts({"pulumi", "keda", "stand-in charts", "upstream CRDs", "aws"})
    assert [(part.level) for part in pulumi if part.name in {"Pulumi engine", "KEDA", "Charts"}] == [
        "real",
        "stood in",
        "real",
    ]
    local = fidelity.parts({"in-process", "no keda"})
    assert not any(part.name == "AWS" for part in local)


class TestSettle:
    @pytest.fixture
    def plan(self) -> Plan:
        plan = stack_plan("prod")
        return replace(plan, models=(plan.models[0],))

    @pytest.fixture
    def kube(self) -> FakeKube:
        kube = FakeKube()
        labels = {"app.kubernetes.io/instance": "deepseek-r1"}
        engine = container(resources={"limits": {"nvidia.com/gpu": "8"}})
        kube.add(
            PODS,
            [pod(name, labels=labels, conditions=UNSCHEDULABLE, containers=[engine]) for name in ("a", "b")],
        )
        return kube

    @pytest.fixture
    def played(self, kube: FakeKube, plan: Plan) -> Operators:
        return operators(kube, healthy_world(plan, {}), compression=1.0)  # type: ignore[arg-type]

    def state(self, plan: Plan, kube: FakeKube, played: Operators) -> Any:
        (state,) = settle(plan, kube, played, limit_seconds=2.0, alive=lambda: None)  # type: ignore[arg-type]
        return state

    def test_ready(self, plan: Plan, kube: FakeKube, played: Operators) -> None:
        for one in kube.all(PODS):
            one["status"]["conditions"] = READY
        state = self.state(plan, kube, played)
        assert (state.ready, state.waits_for) == (True, ())
        assert findings_of([state], capacity_withheld=False) == []

    def test_no_capacity(self, plan: Plan, kube: FakeKube, played: Operators) -> None:
        played.autoscaler.waiting = {("inference", "a"): "h100-spot has no capacity"}
        played.autoscaler.no_capacity = {"h100-spot": 1}
        state = self.state(plan, kube, played)
        assert (state.cause, state.waits_for) == ("capacity", ("h100-spot has no capacity",))
        assert findings_of([state], capacity_withheld=True) == []
        (finding,) = findings_of([state], capacity_withheld=False)
        assert (finding.check, "deepseek-r1" in finding.subject) == ("capacity", True)

    def test_a_pod_that_fits_nowhere_is_a_finding_even_without_capacity(
        self, plan: Plan, kube: FakeKube, played: Operators
    ) -> None:
        played.autoscaler.waiting = {("inference", "a"): "no node group has a node that this pod fits"}
        state = self.state(plan, kube, played)
        assert len(findings_of([state], capacity_withheld=True)) == 1

    def test_killed(self, plan: Plan, kube: FakeKube, played: Operators) -> None:
        played.kubelet.killed.append(
            Killed(pod=("inference", "a"), model="deepseek-r1", needs_seconds=900, allows_seconds=600)
        )
        state = self.state(plan, kube, played)
        assert state.cause == "startup"
        assert "900 s" in state.waits_for[0]

    def test_failed_warmup(self, plan: Plan, kube: FakeKube, played: Operators) -> None:
        name = plan.warmups[0].name
        kube.create(JOBS, {"metadata": {"name": name, "namespace": "inference"}, "status": {"failed": 1}})
        assert name in self.state(plan, kube, played).waits_for[0]

    def test_still_starting_when_the_time_is_over(self, plan: Plan, kube: FakeKube, played: Operators) -> None:
        state = self.state(plan, kube, played)
        assert (state.ready, state.cause) == (False, None)
        assert "no room" in str(findings_of([state], capacity_withheld=True)[0])


def run_of(*changes: Change, ok: bool = True, problems: tuple[str, ...] = ()) -> RunResult:
    return RunResult(changes=changes, outputs={}, resources=(), seconds=1.0, ok=ok, problems=problems)


def test_verdicts_of_runs() -> None:
    create = Change(urn="urn:a", operation="create")
    assert verdicts.errors("up", run_of(create)) == []
    assert [one.problem for one in verdicts.errors("up", run_of(ok=False, problems=("no",)))] == ["no"]
    assert len(verdicts.errors("up", run_of(ok=False))) == 1
    assert verdicts.unforeseen(run_of(create), run_of(create)) == []
    assert "not previewed" in verdicts.unforeseen(run_of(), run_of(create))[0].problem
    assert "not created" in verdicts.unforeseen(run_of(create), run_of())[0].problem
    same = Change(urn="urn:a", operation="same")
    update = Change(urn="urn:b", operation="update", diff_keys=("spec.replicas",))
    (again,) = verdicts.changed_again(run_of(same, update))
    assert (again.subject, again.field) == ("urn:b", "spec.replicas")


@pytest.mark.parametrize(
    ("text", "value"), [("8", 8), ("500m", 0.5), ("5Gi", 5 * 2**30), ("2k", 2000), ("100M", 1e8), (3, 3), ("0.5", 0.5)]
)
def test_quantities(text: str | int, value: float) -> None:
    assert amount(text) == value


def test_requests_of_a_pod() -> None:
    engine = container(resources={"limits": {"cpu": "2", "nvidia.com/gpu": "1"}, "requests": {"cpu": "1"}})
    first = container(resources={"requests": {"cpu": "3"}})
    wanted = requests_of(pod(containers=[engine, engine], initContainers=[first]))
    assert wanted == {"cpu": 3, "nvidia.com/gpu": 2, "pods": 1}
    assert fits(wanted, {"cpu": "3", "nvidia.com/gpu": "2", "pods": "1"})
    assert not fits(wanted, {"cpu": "3", "nvidia.com/gpu": "1", "pods": "1"})
    assert not fits(wanted, {"cpu": "3", "pods": "1"})
