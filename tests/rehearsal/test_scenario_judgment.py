"""How scenarios measure and judge, on clusters of dictionaries: what must turn red does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from planner.image_pull import pull_seconds
from planner.naming import MODEL_LABEL
from planner.plan import ModelPlan, Plan
from rehearsal.injections import healthy_world
from rehearsal.kube import NODES, PODS, Json, Key
from rehearsal.kubelet import GROUP_KEY
from rehearsal.nodes import GPU, NodeGroup, node_groups
from rehearsal.scenarios.limits import Room, bounds, pods_lacking
from rehearsal.scenarios.measure import Course, Watch
from rehearsal.scenarios.results import Limit, Step
from rehearsal.scenarios.trial import Trial, dropped
from rehearsal.scenarios.world import Theatre
from rehearsal.stages import READY_AT
from tests.factories import model_of, stack_plan
from tests.rehearsal.fakes import READY, UNSCHEDULABLE, FakeKube, container, pod

PLAN = stack_plan("prod")
GROUPS: Mapping[str, NodeGroup] = {group.name: group for group in node_groups(PLAN)}
R1 = model_of(PLAN, "deepseek-r1")
SMALL = model_of(PLAN, "r1-distill-70b")
BLOCK, SPOT, DEMAND = "h100-block-9abcdef0", "h100-spot", "h100-on-demand"
SPOT_A100 = "a100-spot"
COMPRESSION = 10.0


@dataclass
class Machines:
    """An autoscaler as scenarios see it."""

    capacity: dict[str, int] = field(default_factory=dict[str, int])
    waits: dict[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])

    def available(self, name: str) -> int:
        return min(GROUPS[name].max_nodes, self.capacity.get(name, GROUPS[name].max_nodes))

    def machine_wait(self, item: Json) -> tuple[float, float] | None:
        return self.waits.get(item["metadata"]["name"])


class Case:
    """Nodes, pods and a theatre around them."""

    def __init__(self, plan: Plan = PLAN) -> None:
        self.kube = FakeKube()
        self.machines = Machines()
        self.held: set[Key] = set()
        kubelet = SimpleNamespace(held=self.held)
        operators: Any = SimpleNamespace(autoscaler=self.machines, kubelet=kubelet)
        cluster: Any = self.kube
        self.theatre = Theatre(
            kube=cluster,
            caches=cluster,
            plan=plan,
            world=healthy_world(plan, {}),
            operators=operators,
            compression=COMPRESSION,
            alive=lambda: None,
        )
        self.now = 1000.0

    def nodes(self, rung: str, *numbers: int) -> list[str]:
        made = [GROUPS[rung].new_node(number) for number in numbers]
        self.kube.add(NODES, made)
        return [node["metadata"]["name"] for node in made]

    def pod(
        self, model: ModelPlan, name: str, node: str | None, *, group: str | None = None, ready: bool = True
    ) -> str:
        changes: dict[str, Any] = {"nodeName": node} if node else {"conditions": UNSCHEDULABLE}
        if node and ready:
            changes["conditions"] = READY
        labels = {MODEL_LABEL: model.name, **({GROUP_KEY: group} if group else {})}
        limits = {GPU: str(model.layout.gpus_per_node), "memory": "1Gi"}
        made = pod(name, labels=labels, containers=[container(resources={"limits": limits})], **changes)
        self.kube.create(PODS, made)
        return name

    def leave(self, name: str, *, grace: float) -> None:
        leaves: Json = {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": grace}
        self.kube.patch(PODS, ("inference", name), {"metadata": leaves})

    def group(self, *nodes: str | None, ready: bool = True) -> None:
        for number, node in enumerate(nodes):
            self.pod(R1, f"r1-{number}", node, group="one", ready=ready)

    def course(self, model: ModelPlan = R1) -> Course:
        (course,) = Watch.begin(self.theatre, [model]).courses
        course.since = self.now
        return course

    def look(self, course: Course, seconds: float = 1.0) -> None:
        rungs = {
            node["metadata"]["name"]: node["metadata"]["annotations"]["rehearsal/node-group"]
            for node in self.kube.all(NODES)
        }
        self.now += seconds
        course.look(self.theatre, rungs, frozenset(), self.now)


class TestClock:
    def test_what_the_plan_times_counts_compressed_and_what_is_real_as_it_is(self) -> None:
        case = Case()
        (one, two) = case.nodes(SPOT, 1, 2)
        case.group(one, two)
        course = case.course()
        case.look(course)
        assert (course.serves, course.touched) == (True, False)
        case.leave("r1-0", grace=20.0)
        case.look(course)
        case.look(course)
        assert (course.drained, course.waited) == (COMPRESSION, 0.0)
        case.kube.delete(PODS, ("inference", "r1-0"))
        case.look(course, 0.0)
        case.look(course)
        assert course.waited == 1.0, "nobody has made the pod anew yet: a controller's own time"
        case.pod(R1, "r1-0", None, group="one")
        case.look(course, 0.0)
        case.look(course)
        assert course.waited == 2.0, "the scheduler's own time"
        case.machines.waits["r1-0"] = (case.now, case.now + 1.0)
        case.look(course, 0.0)
        case.look(course)
        assert course.waited == 2.0 + COMPRESSION, "a machine boots"
        case.kube.delete(PODS, ("inference", "r1-0"))
        case.pod(R1, "r1-0", one, group="one", ready=False)
        case.held.add(("inference", "r1-0"))
        case.look(course, 0.0)
        case.look(course)
        assert (course.started, course.placed, course.serves) == (COMPRESSION, True, False)
        assert course.serving_seconds is None

    def test_a_machine_that_is_seen_late_is_late_by_the_walls_clock(self) -> None:
        case = Case()
        (one,) = case.nodes(SPOT, 1)
        case.group(one, None)
        course = case.course()
        case.machines.waits["r1-1"] = (case.now, case.now + 2.0)
        case.look(course, 0.0)
        case.look(course, 3.0)
        assert course.waited == 2.0 * COMPRESSION + 1.0

    def test_a_machine_that_was_asked_for_between_two_looks_counts_from_then_on(self) -> None:
        case = Case()
        (one,) = case.nodes(SPOT, 1)
        case.group(one, None)
        course = case.course()
        case.look(course, 0.0)
        case.machines.waits["r1-1"] = (case.now + 3.0, case.now + 9.0)
        case.look(course, 4.0)
        case.look(course, 5.0)
        assert course.waited == 3.0 + 6.0 * COMPRESSION

    def test_what_gets_no_machine_waits_compressed_for_ever(self) -> None:
        case = Case()
        (one,) = case.nodes(SPOT, 1)
        case.group(one, None)
        course = case.course()
        case.machines.waits["r1-1"] = (math.inf, math.inf)
        case.look(course, 0.0)
        case.look(course, 50.0)
        assert course.waited == 50.0 * COMPRESSION

    def test_a_drain_and_a_start_count_compressed_until_they_are_over_by_the_plan(self) -> None:
        case = Case()
        (one, two) = case.nodes(SPOT, 1, 2)
        case.group(one, two)
        course = case.course()
        case.leave("r1-0", grace=20.0)
        case.look(course, 0.0)
        case.look(course, 3.0)
        assert course.drained == 20.0 + 1.0, "2 s on the wall are its grace period"
        case.kube.delete(PODS, ("inference", "r1-0"))
        case.pod(R1, "r1-0", one, group="one", ready=False)
        ready_at = datetime.now(UTC) + timedelta(seconds=60)
        case.kube.patch(PODS, ("inference", "r1-0"), {"metadata": {"annotations": {READY_AT: ready_at.isoformat()}}})
        case.look(course, 0.0)
        case.look(course, 100.0)
        assert course.started == pytest.approx(60.0 * COMPRESSION + 40.0, abs=5 * COMPRESSION)

    def test_a_group_that_leaves_half_a_rung_again_has_not_drained_but_waited(self) -> None:
        case = Case()
        case.nodes(SPOT, 1, 2)
        case.group("h100-spot-1", "h100-spot-2")
        course = case.course()
        for name in ("r1-0", "r1-1"):
            case.kube.delete(PODS, ("inference", name))
        case.pod(R1, "r1-0b", "h100-spot-1", group="one")
        case.leave("r1-0b", grace=20.0)
        case.look(course, 0.0)
        case.look(course)
        assert (course.drained, course.waited) == (0.0, COMPRESSION)

    def test_a_pod_on_its_own_is_made_anew_while_the_old_one_drains(self) -> None:
        case = Case()
        one, two = case.nodes(SPOT_A100, 1, 2)
        case.pod(SMALL, "a", one)
        case.pod(SMALL, "b", two)
        course = case.course(SMALL)
        case.leave("a", grace=20.0)
        case.look(course, 0.0)
        case.look(course)
        assert (course.drained, course.waited) == (0.0, 1.0)
        assert course.least_serving == 1

    def test_a_group_on_two_rungs_is_seen(self) -> None:
        case = Case()
        (one,), (two,) = case.nodes(BLOCK, 1), case.nodes(SPOT, 1)
        case.group(one, two)
        course = case.course()
        case.look(course)
        assert course.split == (BLOCK, SPOT)

    def test_half_a_group_is_timed_until_it_is_whole(self) -> None:
        case = Case()
        (one, two) = case.nodes(SPOT, 1, 2)
        case.group(one, None)
        course = case.course()
        case.look(course, 0.0)
        case.look(course)
        case.look(course)
        assert course.half == 2 * COMPRESSION
        case.kube.delete(PODS, ("inference", "r1-1"))
        case.pod(R1, "r1-1", two, group="one")
        case.look(course, 0.0)
        case.look(course)
        assert (course.half, course.longest_half) == (0.0, 2 * COMPRESSION)


class TestLimits:
    def bounds(self, case: Case, model: ModelPlan, *gone: str) -> tuple[str, Limit, Limit]:
        room = Room.of(case.theatre, case.theatre.plan.pool(model.pool), gone=gone)
        return bounds(case.theatre, model, room, pods_lacking(case.theatre, model, gone))

    def test_a_group_takes_its_survivor_and_one_spare_node_of_the_same_rung(self) -> None:
        case = Case()
        one, two, _spare = case.nodes(SPOT, 1, 2, 3)
        case.group(one, two)
        source, rescheduled, serving = self.bounds(case, R1, two)
        assert (source, rescheduled.seconds) == ("spare", 30.0)
        assert serving.seconds <= 720.0

    def test_a_spare_node_of_another_rung_is_none_for_a_group(self) -> None:
        case = Case()
        one, two = case.nodes(BLOCK, 1, 2)
        case.nodes(SPOT, 1)
        case.group(one, two)
        source, rescheduled, _ = self.bounds(case, R1, two)
        assert source == "booted"
        assert [step.what for step in rescheduled.steps] == [f"boot on {BLOCK}"]

    def test_a_rung_with_half_of_the_nodes_is_given_up_first(self) -> None:
        case = Case()
        case.machines.capacity = {BLOCK: 0, SPOT: 1}
        one, two = case.nodes(SPOT, 1, 2)
        case.group(one, two)
        source, rescheduled, serving = self.bounds(case, R1, two)
        assert source == "booted"
        assert [step.what for step in rescheduled.steps] == [
            f"{BLOCK} has none",
            f"{SPOT} has none",
            "the keeper gives it up",
            "the half group leaves",
            f"boot on {DEMAND}",
        ]
        assert serving.seconds == rescheduled.seconds + R1.drain.grace_seconds + R1.startup_seconds

    def test_without_a_machine_anywhere_nodes_come_from_nowhere(self) -> None:
        case = Case()
        case.machines.capacity = dict.fromkeys(GROUPS, 0)
        (one,) = case.nodes(SPOT_A100, 1)
        case.pod(SMALL, "a", one)
        assert self.bounds(case, SMALL, one)[0] == "nowhere"

    def test_a_replica_on_one_node_does_not_wait_for_the_old_one_to_drain(self) -> None:
        case = Case()
        one, two, _spare = case.nodes(SPOT_A100, 1, 2, 3)
        case.pod(SMALL, "a", one)
        case.pod(SMALL, "b", two)
        source, _, serving = self.bounds(case, SMALL, one)
        # The node that stood has pulled the image.
        assert (source, serving.seconds) == ("spare", 30.0 + SMALL.startup_seconds - pull_seconds())


class TestJudgment:
    def judged(self, **course: Any) -> list[str]:
        case = Case()
        (one, two) = case.nodes(SPOT, 1, 2)
        case.group(one, two)
        trial = Trial.begin(case.theatre, "node-loss", gone=[two])
        trial.limits = {R1.name: ("spare", Limit(steps=(Step(what="idle", seconds=30),)), Limit(steps=(), cap=None))}
        trial.limits = {R1.name: (*trial.limits[R1.name][:2], Limit(steps=(Step(what="all", seconds=700),)))}
        known = {"placed": True, "serves": True, "drained": 100.0, "waited": 10.0, "started": 500.0}
        for name, value in (known | course).items():
            setattr(trial.watch.courses[0], name, value)
        trial.outcomes(killed={}, noticed_seconds=0.0)
        return [finding.problem for finding in trial.findings]

    def test_what_keeps_its_limits_is_fine(self) -> None:
        assert self.judged() == []

    @pytest.mark.parametrize(
        ("course", "words"),
        [
            ({"waited": 31.0}, "is rescheduled after 31 s, and 30 s are planned"),
            ({"started": 601.0}, "serves again after 711 s, and 700 s are planned"),
            ({"serves": False}, "does not serve 610 planned seconds later"),
            ({"split": (BLOCK, SPOT)}, f"a group was on {BLOCK} and {SPOT} at once"),
            ({"longest_half": 5000.0}, "half of a group held nodes for 5000 s"),
        ],
    )
    def test_what_does_not_is_told(self, course: dict[str, Any], words: str) -> None:
        (problem,) = self.judged(**course)
        assert words in problem

    def test_requests_follow_from_the_plans_traffic(self) -> None:
        assert R1.performance is not None
        load = R1.performance.at_traffic
        assert load is not None
        lost = dropped(R1, killed=1.0, noticed_seconds=50.0, unserved_seconds=100.0)
        assert lost.in_flight == pytest.approx(load.concurrency + load.queue, abs=0.1)
        assert lost.unnoticed == pytest.approx(50 * load.requests_per_second, abs=0.1)
        assert lost.unserved == pytest.approx(100 * load.requests_per_second, abs=0.1)
        assert lost.total == pytest.approx(lost.in_flight + lost.unnoticed)
        assert dropped(R1, killed=0.0, noticed_seconds=50.0, unserved_seconds=0.0).total == 0
