"""Autoscalers as the replay has them, against what KEDA, the HPA and Ray Serve document."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from planner.plan import CronFloor, MetricTrigger
from simulation.scaling import KedaScaler, Observation, RayScaler, floor_at, floor_windows
from tests.simulation.days import stack

SCALING = replace(
    next(m for m in stack("prod")[1].models if m.name == "r1-distill-70b").scaling,
    min_replicas=2,
    max_replicas=9,
    scale_up_pods=2,
    scale_up_percent=None,
    scale_up_period_seconds=300,
    scale_down_pods=1,
    scale_down_period_seconds=600,
    scale_down_stabilization_seconds=900,
)
THRESHOLD = float(next(t.threshold for t in SCALING.triggers if t.name == "concurrency"))
BERLIN = ZoneInfo("Europe/Berlin")


def seen(second, *, load=0.0, replicas=2, waiting=0, ttft=0.0):
    return Observation(
        second=second,
        running=round(load * THRESHOLD),
        waiting=waiting,
        ttft_p99_seconds=ttft,
        replicas=replicas,
        ready=replicas,
    )


def windows(floor, start, hours=24):
    found = floor_windows([floor], start, hours * 3600)
    return [(w.start / 3600, w.end / 3600) for w in found]


def test_ceil_of_load_over_threshold_within_limits():
    assert KedaScaler(SCALING, ()).wanted(seen(0, load=3.5)) == 4
    assert KedaScaler(SCALING, ()).wanted(seen(0, load=0)) == 2
    assert KedaScaler(replace(SCALING, scale_up_pods=99), ()).wanted(seen(0, load=50)) == 9


def test_a_mean_answers_what_stays_and_not_what_a_look_happens_to_see():
    concurrency = next(trigger for trigger in SCALING.triggers if trigger.name == "concurrency")
    scaler = KedaScaler(replace(SCALING, triggers=(replace(concurrency, mean_seconds=60),)), ())
    wanted = [scaler.wanted(seen(second, load=5.0 if second == 60 else 1.0)) for second in range(0, 121, 15)]
    assert set(wanted) == {2}, "5, 1, 1, 1 in a minute are 2"
    replicas = 2
    for second in range(135, 196, 15):
        replicas = scaler.wanted(seen(second, load=4.0, replicas=replicas))
    assert replicas == 4


@pytest.mark.parametrize(("load", "replicas"), [(2.15, 2), (2.3, 3), (1.9, 2)])
def test_a_tenth_off_is_near_enough(load, replicas):
    assert KedaScaler(SCALING, ()).wanted(seen(0, load=load)) == replicas


def test_any_trigger_may_ask_for_more():
    assert KedaScaler(SCALING, ()).wanted(seen(0, waiting=19)) == 4  # five waiting for each
    limit = float(next(t.threshold for t in SCALING.triggers if t.name == "ttft"))
    assert KedaScaler(SCALING, ()).wanted(seen(0, ttft=1.5 * limit)) == 3


def test_up_by_no_more_than_a_step_each_period():
    scaler, replicas = KedaScaler(SCALING, ()), 2
    course = []
    for second in range(0, 615, 15):
        replicas = scaler.wanted(seen(second, load=9, replicas=replicas))
        course.append(replicas)
    assert course[0] == course[19] == 4
    assert course[20] == course[39] == 6
    assert course[40] == 8


def test_as_many_as_there_are_where_that_is_more_than_a_step():
    scaler, replicas, course = KedaScaler(replace(SCALING, scale_up_percent=100, max_replicas=40), ()), 2, []
    for second in range(0, 1200, 15):
        replicas = scaler.wanted(seen(second, load=40, replicas=replicas))
        course.append(replicas)
    assert sorted(set(course)) == [4, 8, 16, 32]
    assert course.index(8) == 300 / 15


def test_late_answers_ask_for_twice_the_ready_replicas_at_most_and_only_beyond_the_objective():
    scaling = replace(SCALING, scale_up_pods=99)
    limit = float(next(t.threshold for t in SCALING.triggers if t.name == "ttft")) * 1.1
    assert KedaScaler(scaling, ()).wanted(seen(0, ttft=100 * limit, replicas=3)) == 7
    assert KedaScaler(scaling, ()).wanted(seen(0, ttft=1.02 * limit, replicas=3)) == 4
    assert KedaScaler(replace(scaling, min_replicas=1), ()).wanted(seen(0, ttft=0.99 * limit, replicas=1)) == 1


def test_a_full_cache_adds_a_replica_and_a_half_full_one_holds_those_that_it_needs():
    def after(kv_usage, replicas):
        scaler = KedaScaler(replace(SCALING, scale_down_stabilization_seconds=0, scale_up_pods=9), ())
        return scaler.wanted(replace(seen(0, replicas=replicas), kv_usage=kv_usage))

    assert [after(kv, 4) for kv in (0.89, 0.91, 1.0)] == [4, 5, 5]
    assert after(0.5, 4) == 3


def test_a_model_without_replicas_sleeps_until_its_router_is_asked():
    router = MetricTrigger(name="router", query="", threshold=str(int(THRESHOLD)), metric_type="AverageValue")
    scaling = replace(SCALING, min_replicas=0, idle_seconds=900, triggers=(*SCALING.triggers, router), floors=())
    scaler = KedaScaler(scaling, ())
    asleep = replace(seen(0, replicas=0), second=0)
    assert scaler.wanted(asleep) == 0
    assert scaler.wanted(replace(asleep, second=15, asked_peak=1)) == 1
    awake = seen(0, replicas=1)
    assert scaler.wanted(replace(awake, second=900)) == 1
    assert scaler.wanted(replace(awake, second=915)) == 0
    # What is held counts to the load as well.
    assert KedaScaler(scaling, ()).wanted(replace(awake, asked_peak=int(3 * THRESHOLD))) == 3


def test_office_hours_end_with_no_replica_and_begin_with_the_minimum():
    floor = CronFloor(timezone="UTC", start="0 8 * * *", end="0 18 * * *", replicas=2)
    start = datetime(2026, 6, 17, tzinfo=ZoneInfo("UTC"))
    scaler = KedaScaler(replace(SCALING, idle_seconds=900), floor_windows([floor], start, 86400))
    hours = {hour: scaler.wanted(seen(hour * 3600, replicas=2)) for hour in (0.3, 9, 17.9, 18.1, 18.2)}
    assert hours == {0.3: 0, 9: 2, 17.9: 2, 18.1: 2, 18.2: 0}
    assert scaler.wanted(seen(20 * 3600, replicas=0)) == 0
    assert scaler.wanted(seen(32.5 * 3600 % 86400, replicas=0)) == 2


def test_down_only_after_the_window_and_one_at_a_time():
    scaler, replicas, changes = KedaScaler(SCALING, ()), 6, {}
    for second in range(0, 4000, 15):
        load = 6 if second < 300 else 0
        new = scaler.wanted(seen(second, load=load, replicas=replicas))
        if new != replicas:
            changes[second] = new
        replicas = new
    assert list(changes.values()) == [5, 4, 3, 2]
    times = list(changes)
    assert 285 + 900 <= times[0] <= 300 + 930
    assert all(later - earlier >= 600 for earlier, later in pairwise(times))


def test_a_floor_asks_for_its_replicas_while_it_holds():
    floor = CronFloor(timezone="UTC", start="0 8 * * *", end="0 9 * * *", replicas=4)
    scaler = KedaScaler(SCALING, floor_windows([floor], datetime(2026, 6, 17, tzinfo=ZoneInfo("UTC")), 86400))
    assert scaler.wanted(seen(7.9 * 3600)) == 2
    assert scaler.wanted(seen(8 * 3600)) == 4


def test_floors_on_the_clocks_of_their_zone():
    working = CronFloor(timezone="Europe/Berlin", start="30 7 * * 1-5", end="0 19 * * 1-5", replicas=3)
    assert windows(working, datetime(2026, 6, 17, tzinfo=ZoneInfo("UTC"))) == [(5.5, 17)]
    assert windows(working, datetime(2026, 1, 14, tzinfo=ZoneInfo("UTC"))) == [(6.5, 18)]
    assert windows(working, datetime(2026, 6, 20, tzinfo=BERLIN)) == []  # a Saturday
    # The replay may begin inside of one, and at its very start.
    assert windows(working, datetime(2026, 6, 17, 12, tzinfo=BERLIN), 12) == [(0, 7)]
    assert windows(working, datetime(2026, 6, 17, 7, 30, tzinfo=BERLIN), 1) == [(0, 1)]


def test_floors_over_midnight_and_over_a_change_of_the_clock():
    night = CronFloor(timezone="Europe/Berlin", start="0 22 * * *", end="0 6 * * *", replicas=3)
    # The night of 29 March has an hour less, that of 25 October one more.
    assert windows(night, datetime(2026, 3, 28, 12, tzinfo=BERLIN)) == [(10, 17)]
    assert windows(night, datetime(2026, 10, 24, 12, tzinfo=BERLIN)) == [(10, 19)]
    assert windows(night, datetime(2026, 6, 17, tzinfo=BERLIN)) == [(0, 6), (22, 24)]


def test_two_starts_before_one_end():
    """KEDA asks which comes next: between two starts a floor does not hold."""
    odd = CronFloor(timezone="UTC", start="0 8,10 * * *", end="0 12 * * *", replicas=3)
    assert windows(odd, datetime(2026, 6, 17, tzinfo=ZoneInfo("UTC"))) == [(10, 12)]


def test_the_highest_floor_counts():
    start = datetime(2026, 6, 17, tzinfo=ZoneInfo("UTC"))
    floors = [
        CronFloor(timezone="UTC", start="0 8 * * *", end="0 20 * * *", replicas=3),
        CronFloor(timezone="UTC", start="0 12 * * *", end="0 14 * * *", replicas=5),
    ]
    found = floor_windows(floors, start, 86400)
    assert [floor_at(found, hour * 3600) for hour in (7, 8, 13, 14, 20)] == [0, 3, 5, 3, 0]


def test_ray_lets_go_of_one_replica_at_a_time_as_planned():
    scaler = RayScaler(SCALING, {"downscale_delay_s": 600, "downscaling_factor": 1 / 7})
    replicas, changes = 9, {}
    for second in range(0, 3000, 15):
        load = Observation(second=second, running=0, waiting=0, ttft_p99_seconds=0, replicas=replicas, ready=replicas)
        new = scaler.wanted(load)
        if new != replicas:
            changes[second] = new
        replicas = new
    assert list(changes.values()) == [8, 7, 6, 5]
    assert all(later - earlier >= 600 for earlier, later in pairwise(changes))


def test_ray_waits_and_then_goes_all_the_way():
    target = SCALING.target_concurrency
    scaler = RayScaler(SCALING, {"upscale_delay_s": 30, "downscale_delay_s": 600})
    course = []
    replicas = 2
    for second in range(0, 1200, 15):
        load = 6 * target if second < 300 else target
        replicas = scaler.wanted(
            Observation(second=second, running=load, waiting=0, ttft_p99_seconds=0, replicas=replicas, ready=replicas)
        )
        course.append((second, replicas))
    ups = [second for second, value in course if value == 6]
    assert 30 <= ups[0] <= 60
    downs = [second for second, value in course if second > 300 and value == 2]
    assert 300 + 600 <= downs[0] <= 300 + 660
