"""What the ladder keeper does in each situation, and what it never does."""

from __future__ import annotations

import pytest

from components.scripts.ladder_actions import Memory, Move, memory_of
from components.scripts.ladder_decisions import blocked
from components.scripts.ladder_world import Hold
from tests.components.ladder_cases import (
    ALWAYS,
    BLOCK,
    CONFIRM,
    DEMAND,
    MOVE,
    NOW,
    RELEASE,
    SPOT,
    STALL,
    Cluster,
    as_json,
    cordoned,
    evicted,
    orders,
    rung,
    told,
    uncordoned,
)


def on_demand_pair(cluster: Cluster, index: int = 0, **changes) -> str:
    """A healthy group on two nodes of the worst rung."""
    names = [cluster.node(f"d{2 * index + n}", DEMAND) for n in (0, 1)]
    return cluster.group(index, *names, **changes)


class TestGivingUp:
    def test_a_group_with_one_of_two_nodes_gives_the_rung_up_after_the_stall_limit(self) -> None:
        case = Cluster()
        case.node("a", BLOCK)
        case.group(0, "a", None, age=STALL - 1)
        assert case.look().actions == ()
        decision = case.look(1)
        assert cordoned(decision) == ["a"]
        assert evicted(decision) == ["r1-0", "r1-0-1"], "the leader first"
        assert told(decision) == ["GaveUpRung"]

    def test_it_need_not_wait_where_the_autoscaler_says_that_there_is_none(self) -> None:
        case = Cluster()
        case.node("a", BLOCK)
        case.backing_off = frozenset({BLOCK})
        case.group(0, "a", None, age=CONFIRM - 1)
        assert case.look().actions == ()
        assert cordoned(case.look(1)) == ["a"]

    def test_back_off_of_another_rung_is_none_of_its_business(self) -> None:
        case = Cluster()
        case.node("a", SPOT)
        case.backing_off = frozenset({BLOCK})
        case.group(0, "a", None, age=CONFIRM + 60)
        assert case.look().actions == ()

    def test_the_limit_counts_from_the_node_and_not_from_the_long_wait_for_it(self) -> None:
        case = Cluster()
        case.node("a", BLOCK)
        case.group(0, "a", None, age=3 * STALL)
        case.change_pod("r1-0", bound_at=case.now - 60)
        assert case.look().actions == ()

    def test_a_free_node_is_waited_for(self) -> None:
        case = Cluster()
        case.node("a", BLOCK)
        case.node("b", BLOCK)
        case.group(0, "a", None, age=STALL)
        assert case.look().actions == ()
        assert cordoned(case.look(STALL)) == ["a"]

    def test_a_group_without_any_node_holds_nothing(self) -> None:
        case = Cluster()
        case.group(0, None, None, age=10 * STALL)
        assert case.look().actions == ()

    def test_a_node_that_another_group_uses_is_not_cordoned(self) -> None:
        case = Cluster(orders(nodes=2))
        case.node("a", SPOT)
        case.node("b", SPOT)
        case.group(0, "a", "b")
        case.group(1, "a", None, age=STALL)
        decision = case.look()
        assert cordoned(decision) == []
        assert evicted(decision) == ["r1-1", "r1-1-1"]

    def test_done_once_it_is_not_done_again(self) -> None:
        case = Cluster()
        case.node("a", BLOCK)
        case.group(0, "a", None, age=STALL)
        case.look()
        assert case.look(10).actions == ()
        case.gone(0)
        case.group(0, None, None, age=5)
        assert case.look(10).actions == ()

    def test_an_interrupted_round_is_finished_by_the_next(self) -> None:
        """Cordoned, and then the keeper ended before it evicted."""
        case = Cluster()
        case.node("a", BLOCK, cordoned=True, hold=Hold(why="gave-up", group="inference/r1/0", at=NOW))
        case.group(0, "a", None, age=STALL)
        assert evicted(case.look()) == ["r1-0", "r1-0-1"]

    def test_of_two_half_groups_the_younger_makes_room_for_the_older(self) -> None:
        case = Cluster()
        case.node("a", BLOCK)
        case.node("b", BLOCK)
        case.group(0, "a", None, age=STALL + 100)
        case.group(1, "b", None, age=STALL)
        decision = case.look()
        assert evicted(decision) == ["r1-1", "r1-1-1"]
        assert cordoned(decision) == ["b"]
        case.gone(1)
        case.group(1, None, None, age=0)
        assert case.look(CONFIRM - 1).actions == (), (
            "the older waits for the node; the younger's pods look elsewhere first"
        )
        assert uncordoned(case.look(1)) == ["b"]


class TestDrains:
    def test_one_node_of_a_spot_group_is_taken_and_all_pods_leave_together(self) -> None:
        case = Cluster()
        case.node("a", SPOT, cordoned=True)
        case.node("b", SPOT)
        case.group(0, "a", "b")
        decision = case.look()
        assert evicted(decision) == ["r1-0", "r1-0-1"]
        assert told(decision) == ["FollowsDrain"]
        assert case.look(10).actions == (), "once"

    def test_a_person_who_cordons_a_node_on_demand_evicts_nobody(self) -> None:
        case = Cluster(orders(window=None))
        case.node("a", DEMAND, cordoned=True)
        case.node("b", DEMAND)
        case.group(0, "a", "b")
        assert case.look().actions == ()

    @pytest.mark.parametrize("rung_name", [BLOCK, SPOT, DEMAND])
    def test_the_first_eviction_of_a_drain_is_a_signal_on_every_rung(self, rung_name: str) -> None:
        case = Cluster()
        case.node("a", rung_name, cordoned=True)
        case.node("b", rung_name)
        case.group(0, "a", "b")
        case.change_pod("r1-0-1", deleted_at=case.now - 1, disrupted=True)
        assert evicted(case.look()) == ["r1-0"]

    def test_a_node_about_to_be_deleted_is_a_signal(self) -> None:
        case = Cluster()
        case.node("a", DEMAND, leaving=True)
        case.node("b", DEMAND)
        case.group(0, "a", "b")
        assert evicted(case.look()) == ["r1-0", "r1-0-1"]

    def test_pods_of_the_next_life_are_left_alone(self) -> None:
        """The new leader is there while an old worker still ends."""
        case = Cluster()
        case.node("a", SPOT)
        case.node("b", SPOT)
        case.group(0, "a", "b", age=0)
        case.change_pod("r1-0-1", created=case.now - 3600, deleted_at=case.now - 20)
        assert evicted(case.look()) == []

    def test_its_own_cordon_is_no_drain(self) -> None:
        case = Cluster()
        case.node("a", SPOT, cordoned=True, hold=Hold(why="gave-up", group="inference/r1/7", at=NOW))
        case.node("b", SPOT)
        case.group(0, "a", "b")
        assert evicted(case.look()) == []

    def test_a_replica_of_one_pod_is_left_to_its_drain(self) -> None:
        case = Cluster(orders(nodes=1))
        case.node("a", SPOT, cordoned=True)
        case.group(0, "a")
        assert case.look().actions == ()


class TestClimbing:
    def test_one_group_climbs_and_its_old_nodes_are_handed_back(self) -> None:
        case = Cluster()
        on_demand_pair(case)
        assert told(case.look()) == ["ClimbStarted"]
        decision = case.look(10)
        assert cordoned(decision) == ["d0", "d1"]
        assert evicted(decision) == ["r1-0", "r1-0-1"]
        case.gone(0)
        case.group(0, None, None, age=0)
        assert case.look(60).actions == ()
        case.gone(0)
        for name in ("x", "y"):
            case.node(name, BLOCK)
        case.group(0, "x", "y", age=0, ready=False)
        assert told(case.look(300)) == ["ClimbDone"]
        assert case.memory.move is None
        assert case.memory.rest_until == case.now + MOVE
        assert uncordoned(case.look(10)) == [], "the autoscaler takes the empty nodes"
        assert uncordoned(case.look(RELEASE)) == ["d0", "d1"], "it did not: they are the rung's floor"

    def test_without_a_window_nobody_climbs(self) -> None:
        case = Cluster(orders(window=None))
        on_demand_pair(case)
        assert case.look().actions == ()

    def test_the_window(self) -> None:
        case = Cluster(orders(window=ALWAYS | {"days": ["sat"], "start": "03:00", "hours": 4}))
        key = on_demand_pair(case)
        assert case.look().actions == ()
        why = blocked(case.world(), case.orders, case.memory, case.world().groups[key])
        assert why == "the maintenance window opens sat at 03:00 UTC"
        assert told(case.look(19 * 3600)) == ["ClimbStarted"]

    def test_a_window_over_midnight(self) -> None:
        case = Cluster(orders(window=ALWAYS | {"days": ["thu"], "start": "22:00", "hours": 12}))
        on_demand_pair(case)
        assert told(case.look()) == ["ClimbStarted"], "Friday 08:00 is within Thursday's"

    def test_never_two_at_once(self) -> None:
        case = Cluster()
        for index in range(3):
            on_demand_pair(case, index)
        moved: set[str] = set()
        for _ in range(20):
            moved |= {pod.rsplit("-", 1)[0] if pod.count("-") > 1 else pod for pod in evicted(case.look(10))}
        assert moved == {"r1-0"}

    def test_the_next_waits_until_the_last_serves_again(self) -> None:
        case = Cluster()
        case.memory = Memory(rest_until=NOW + 100)
        on_demand_pair(case)
        assert case.look().actions == ()
        case.change_pod("r1-0", ready=False)
        assert case.look(100).actions == ()
        case.change_pod("r1-0", ready=True)
        assert told(case.look(10)) == ["ClimbStarted"]

    def test_only_while_the_other_replicas_are_healthy(self) -> None:
        case = Cluster()
        key = on_demand_pair(case, 0)
        on_demand_pair(case, 1, ready=False)
        assert case.look().actions == ()
        why = blocked(case.world(), case.orders, case.memory, case.world().groups[key])
        assert why == "inference/r1/1 does not serve"

    def test_a_rung_without_room_or_capacity_is_no_goal(self) -> None:
        case = Cluster(orders(rungs=[rung(BLOCK, "capacity_block", max_nodes=2), rung(DEMAND, "on_demand")]))
        key = on_demand_pair(case, 0)
        for name in ("x", "y"):
            case.node(name, BLOCK)
        case.group(1, "x", "y")
        assert case.look().actions == ()
        assert "full (2 of 2 nodes, 0 free)" in str(
            blocked(case.world(), case.orders, case.memory, case.world().groups[key])
        )
        case.gone(1)
        case.nodes.pop("x"), case.nodes.pop("y")
        case.backing_off = frozenset({BLOCK})
        assert case.look(10).actions == ()
        case.backing_off = frozenset()
        assert told(case.look(10)) == ["ClimbStarted"]

    def test_a_climb_that_finds_nothing_comes_home_and_is_tried_ever_later(self) -> None:
        case = Cluster()
        for count, pause in ((1, 1800), (2, 3600)):
            case.gone(0)
            on_demand_pair(case)
            case.look()
            case.look(10)
            case.gone(0)
            case.group(0, None, None, age=0)
            case.look(1)
            case.backing_off = frozenset({BLOCK, SPOT})
            assert case.look(CONFIRM - 1).actions == ()
            decision = case.look(10)
            assert uncordoned(decision) == ["d0", "d1"], "the group goes back to its own nodes"
            assert told(decision) == ["ClimbFailed"]
            failure = case.memory.failures["big"]
            assert (failure.count, failure.until) == (count, case.now + pause)
            case.backing_off = frozenset()
            case.gone(0)
            key = on_demand_pair(case)
            assert case.look(MOVE).actions == ()
            assert "climb(s) failed" in str(blocked(case.world(), case.orders, case.memory, case.world().groups[key]))
            case.now += pause

    def test_a_slow_rung_is_waited_for_as_long_as_its_boot_may_take(self) -> None:
        case = Cluster()
        on_demand_pair(case)
        case.look()
        case.look(10)
        case.gone(0)
        case.group(0, None, None, age=0)
        case.look(1)
        assert case.look(STALL + CONFIRM).actions == ()
        assert told(case.look(1)) == ["ClimbFailed"]

    def test_pods_that_may_not_be_evicted_end_the_climb(self) -> None:
        case = Cluster()
        on_demand_pair(case)
        case.look()
        for _ in range(3):
            case.look(10)
            for name in case.pods:  # a disruption budget says no
                case.change_pod(name, deleted_at=None, disrupted=False, ready=True)
        assert told(case.look(MOVE)) == ["ClimbFailed"]
        assert not any(node.cordoned for node in case.nodes.values())

    def test_a_keeper_that_starts_again_goes_on(self) -> None:
        case = Cluster()
        on_demand_pair(case)
        case.look()
        case.memory = memory_of(as_json(case.memory))
        assert isinstance(case.memory.move, Move)
        assert evicted(case.look(10)) == ["r1-0", "r1-0-1"]
        case.memory = memory_of(as_json(case.memory))
        assert evicted(case.look(10)) == []

    def test_a_block_that_begins_is_climbed_to_without_a_window(self) -> None:
        ladder = [rung(BLOCK, "capacity_block", max_nodes=2, starts="2027-01-15T07:00:00Z"), rung(DEMAND, "on_demand")]
        case = Cluster(orders(window=None, rungs=ladder), now=NOW - 7200)
        key = on_demand_pair(case)
        assert case.look().actions == ()
        assert blocked(case.world(), case.orders, case.memory, case.world().groups[key]) == f"{BLOCK} has not begun"
        assert told(case.look(3601)) == ["ClimbStarted"]

    def test_it_stays_off_shared_nodes(self) -> None:
        case = Cluster(orders(nodes=1))
        case.node("d", DEMAND)
        case.group(0, "d")
        key = case.group(1, "d")
        assert case.look().actions == ()
        assert "shares d" in str(blocked(case.world(), case.orders, case.memory, case.world().groups[key]))

    def test_a_stall_comes_first(self) -> None:
        case = Cluster()
        on_demand_pair(case, 0)
        case.node("s", SPOT)
        case.group(1, "s", None, age=STALL)
        assert told(case.look()) == ["GaveUpRung"]
        assert case.memory.move is None


class TestEndsOfBlocks:
    LADDER = (
        rung(BLOCK, "capacity_block", max_nodes=4, ends="2027-01-15T12:00:00Z"),
        rung(DEMAND, "on_demand", max_nodes=8),
    )
    END = NOW + 4 * 3600

    def case(self, groups: int) -> Cluster:
        case = Cluster(orders(window=None, rungs=list(self.LADDER)), now=self.END - 2700 - MOVE - 60)
        for index in range(groups):
            case.group(index, *(case.node(f"b{2 * index + n}", BLOCK) for n in (0, 1)))
        return case

    def test_groups_leave_one_at_a_time_and_the_rest_at_once_before_aws_takes_them(self) -> None:
        case = self.case(2)
        assert case.look().actions == ()
        decision = case.look(60)
        assert cordoned(decision) == ["b0", "b1", "b2", "b3"], "nobody comes any more"
        assert evicted(decision) == []
        assert told(decision) == ["EndsStarted"]
        assert evicted(case.look(10)) == ["r1-0", "r1-0-1"]
        for _ in range(5):
            assert evicted(case.look(10)) == []
        case.now = self.END - 2700
        assert evicted(case.look()) == ["r1-1", "r1-1-1"]

    def test_the_second_follows_when_the_first_has_arrived(self) -> None:
        case = self.case(2)
        case.look(60)
        case.look(10)
        case.gone(0)
        case.group(0, case.node("d0", DEMAND), case.node("d1", DEMAND), age=0)
        assert told(case.look(60)) == ["EndsDone"]
        case.memory = Memory()
        assert told(case.look(10)) == ["EndsStarted"]
        assert evicted(case.look(10)) == ["r1-1", "r1-1-1"]

    def test_nobody_climbs_back_to_a_block_that_ends(self) -> None:
        case = Cluster(orders(rungs=list(self.LADDER)), now=self.END - 3000)
        key = on_demand_pair(case)
        assert case.look().actions == ()
        assert blocked(case.world(), case.orders, case.memory, case.world().groups[key]) == f"{BLOCK} ends"

    def test_an_extended_block_is_given_back(self) -> None:
        case = self.case(1)
        case.look(60)
        case.memory = Memory()
        case.orders = orders(
            window=None, rungs=[rung(BLOCK, "capacity_block", ends="2027-02-15T12:00:00Z"), rung(DEMAND, "on_demand")]
        )
        assert uncordoned(case.look(10)) == ["b0", "b1"]


def test_nothing_happens_in_a_healthy_cluster() -> None:
    case = Cluster()
    case.node("a", BLOCK)
    case.node("b", BLOCK)
    case.group(0, "a", "b")
    for _ in range(100):
        assert case.look(600).actions == ()


def test_a_node_that_somebody_uncordoned_loses_its_mark() -> None:
    case = Cluster()
    case.node("a", BLOCK, hold=Hold(why="gave-up", group="inference/r1/0", at=NOW))
    assert uncordoned(case.look()) == ["a"]
