"""The operators' own rules, held before their webhooks see an object."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from components.serving.custom_resources import (
    CronTrigger,
    InvalidObjectError,
    LeaderWorkerSet,
    PodMonitor,
    PrometheusTrigger,
    RayService,
    RayWorkerGroup,
    ScaledObject,
    ScaleRule,
)

POD: dict[str, Any] = {"metadata": {"labels": {}}, "spec": {"containers": [{"name": "engine", "image": "engine:1"}]}}
META: dict[str, Any] = {"name": "model", "namespace": "inference", "labels": {}}

GROUPS = LeaderWorkerSet(**META, replicas=1, size=2, leader_template=POD, worker_template=POD)
RAY = RayService(
    **META,
    ray_version="2.60.0",
    serve_config="applications: []\n",
    head_template=POD,
    workers=RayWorkerGroup(name="gpu", hosts=1, min_replicas=1, max_replicas=2, template=POD),
    initializing_timeout_minutes=60,
    idle_seconds=60,
)
TRIGGER = PrometheusTrigger(
    name="queue", server="http://prometheus:9090", query="sum(x)", threshold="5", metric_type="AverageValue"
)
FLOOR = CronTrigger(timezone="UTC", start="0 8 * * *", end="0 20 * * *", replicas=2)
SCALED = ScaledObject(
    **META,
    target_api_version="apps/v1",
    target_kind="Deployment",
    target_name="model",
    min_replicas=1,
    max_replicas=3,
    polling_seconds=15,
    cooldown_seconds=600,
    initial_cooldown_seconds=600,
    prometheus=(TRIGGER,),
    cron=(FLOOR,),
    up=ScaleRule(pods=1, period_seconds=60, stabilization_seconds=0),
    down=ScaleRule(pods=1, period_seconds=600, stabilization_seconds=900),
)
MONITOR = PodMonitor(**META, match_labels={"a": "b"}, port="http", path="/metrics", interval="15s")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "1st"}, "DNS-1035"),
        ({"name": "a" * 50}, "room"),
        ({"replicas": -1}, "replicas"),
        ({"size": 0}, "one pod"),
        ({"replicas": 1_000_000, "size": 3000}, "32 bits"),
        ({"max_unavailable": 0}, "both be 0"),
        ({"max_surge": -1}, "negative"),
    ],
)
def test_leader_worker_set_refuses(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidObjectError, match=message):
        replace(GROUPS, **change)


def test_no_groups_may_neither_surge_nor_be_missed() -> None:
    assert replace(GROUPS, replicas=0, max_unavailable=0).spec()["replicas"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "a" * 48}, "47"),
        ({"name": "a.b"}, "DNS-1035"),
        ({"workers": replace(RAY.workers, min_replicas=3)}, "minReplicas"),
        ({"workers": replace(RAY.workers, hosts=0)}, "host"),
        ({"initializing_timeout_minutes": 0}, "timeout"),
        ({"idle_seconds": 0}, "idle timeout"),
        ({"head_template": {"spec": {"containers": []}}}, "container"),
        ({"head_template": {"spec": {**POD["spec"], "restartPolicy": "Always"}}}, "restartPolicy"),
    ],
)
def test_ray_service_refuses(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidObjectError, match=message):
        replace(RAY, **change)


def test_the_ray_timeout_is_an_annotation_beside_the_given_ones() -> None:
    assert replace(RAY, annotations={"a": "b"}).metadata()["annotations"] == {
        "a": "b",
        "ray.io/initializing-timeout": "60m",
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "a" * 55}, "63"),
        ({"min_replicas": 4}, "maxReplicaCount"),
        ({"min_replicas": 0, "max_replicas": 0, "cron": ()}, "1 at least"),
        ({"prometheus": ()}, "trigger"),
        ({"prometheus": (TRIGGER, TRIGGER)}, "different names"),
        ({"up": replace(SCALED.up, pods=0)}, "one pod"),
        ({"up": replace(SCALED.up, period_seconds=1801)}, "1800"),
        ({"down": replace(SCALED.down, stabilization_seconds=3601)}, "3600"),
        ({"cron": (replace(FLOOR, replicas=4),)}, "floor"),
        ({"cron": (replace(FLOOR, end=FLOOR.start),)}, "start and end"),
    ],
)
def test_scaled_object_refuses(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidObjectError, match=message):
        replace(SCALED, **change)


def test_an_outage_of_prometheus_takes_no_replica_away() -> None:
    spec = SCALED.spec()
    assert spec["fallback"]["behavior"] == "currentReplicasIfHigher"
    assert spec["fallback"]["replicas"] >= SCALED.min_replicas
    assert spec["triggers"][0]["metadata"]["ignoreNullValues"] == "false"
    # KEDA reads every value of a trigger as text.
    assert all(isinstance(value, str) for trigger in spec["triggers"] for value in trigger["metadata"].values())


@pytest.mark.parametrize(
    ("change", "message"),
    [({"match_labels": {}}, "selector"), ({"interval": "15"}, "duration"), ({"path": "metrics"}, "path")],
)
def test_pod_monitor_refuses(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidObjectError, match=message):
        replace(MONITOR, **change)
