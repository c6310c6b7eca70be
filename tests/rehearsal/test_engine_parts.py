"""The in-process engine's rules, each by itself."""

from __future__ import annotations

import threading
from typing import Any, cast

import pytest

from rehearsal.engines import kubernetes_await, paths, values
from rehearsal.engines.diff import decide
from rehearsal.engines.effects import cert_manager_release
from rehearsal.engines.program import Registration, make_urn
from rehearsal.engines.run import matcher
from rehearsal.engines.state import Entry, dependents_first
from rehearsal.engines.values import UNKNOWN, Secret
from rehearsal.kube import Kind, Kube

URN = "urn:pulumi:dev::demo::{}::{}"
CONFIG_MAP = "kubernetes:core/v1:ConfigMap"


def registration(type_token: str, inputs: dict[str, Any], **more: Any) -> Registration:
    return Registration(
        urn=URN.format(type_token, "x"), type=type_token, name="x", parent=None, custom=True, inputs=inputs, **more
    )


def entry(name: str, *, type_token: str = CONFIG_MAP, inputs: dict[str, Any] | None = None, **more: Any) -> Entry:
    given: dict[str, Any] = {
        "urn": URN.format(type_token, name),
        "type": type_token,
        "name": name,
        "parent": None,
        "custom": True,
        "protect": False,
        "retain_on_delete": False,
        "depends_on": (),
        "provider": None,
        "ignore_changes": (),
        "inputs": inputs or {},
        "outputs": {},
        "id": "id",
        **more,
    }
    return Entry(**given)


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("spec.replicas", ("spec", "replicas")),
        ('metadata.annotations["example.com/x"]', ("metadata", "annotations", "example.com/x")),
        ("spec.containers[0].image", ("spec", "containers", 0, "image")),
        ('["a.b"].c', ("a.b", "c")),
    ],
)
def test_property_paths(text: str, steps: tuple[str | int, ...]) -> None:
    assert paths.parse(text) == steps


def test_a_broken_path_names_the_column() -> None:
    with pytest.raises(ValueError, match="column 5"):
        paths.parse("spec[a]")


def test_put_and_remove_leave_the_original_alone() -> None:
    value: dict[str, Any] = {"a": {"b": 1, "c": [1, 2]}}
    assert paths.put(value, ("a", "c", 1), 3) == {"a": {"b": 1, "c": [1, 3]}}
    assert paths.put(value, ("x", "y"), 3) == {**value, "x": {"y": 3}}
    assert paths.remove(value, ("a", "b")) == {"a": {"c": [1, 2]}}
    assert paths.remove(value, ("no", "such")) == value
    assert value == {"a": {"b": 1, "c": [1, 2]}}


def test_put_into_a_secret_keeps_it_secret() -> None:
    assert paths.put({"data": Secret({"a": 1})}, ("data", "a"), 2) == {"data": Secret({"a": 2})}


def test_values_survive_the_wire() -> None:
    given = {"i": 1, "f": 1.5, "s": "x", "b": True, "l": [1, {"k": UNKNOWN}], "secret": Secret({"k": "v"})}
    back = values.decode(values.encode(given))
    assert back == given
    assert isinstance(back["i"], int)


def test_marks_hide_secrets() -> None:
    given = {"a": Secret("hunter2hunter2"), "b": [Secret({"c": "correct horse"})], "d": UNKNOWN}
    assert values.shown(given) == {"a": "<secret>", "b": ["<secret>"], "d": "<computed>"}
    assert values.secret_paths(given) == ["a", "b[0]"]
    assert values.secret_texts(given) == ["hunter2hunter2", "correct horse"]
    assert "hunter2" not in repr(given)


def test_urns_are_chains_without_the_stack() -> None:
    stack = make_urn("dev", "demo", None, "pulumi:pulumi:Stack", "demo-dev")
    component = make_urn("dev", "demo", stack, "a:b:C", "c")
    assert component == "urn:pulumi:dev::demo::a:b:C::c"
    assert make_urn("dev", "demo", component, "d:e:F", "f") == "urn:pulumi:dev::demo::a:b:C$d:e:F::f"


@pytest.mark.parametrize(
    ("target", "urn", "matches"),
    [
        ("urn:pulumi:dev::demo::a:b:C**", "urn:pulumi:dev::demo::a:b:C$d:e:F::f", True),
        ("urn:pulumi:dev::demo::a:b:C::*", "urn:pulumi:dev::demo::a:b:C::x", True),
        ("urn:pulumi:dev::demo::a:b:*", "urn:pulumi:dev::demo::a:b:C::x", False),
        ("urn:pulumi:dev::demo::a:b:C::x", "urn:pulumi:dev::demo::a:b:C::xy", False),
    ],
)
def test_target_globs(target: str, urn: str, matches: bool) -> None:
    assert matcher([target])(urn) is matches


OBJECT = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"a": "1"}}


@pytest.mark.parametrize(
    ("old", "new", "provider", "operation"),
    [
        (OBJECT, OBJECT, {}, "same"),
        (OBJECT, {**OBJECT, "data": {"a": "2"}}, {"enableConfigMapMutable": "true"}, "update"),
        (OBJECT, {**OBJECT, "data": {"a": "2"}}, {}, "replace"),
        (OBJECT, {**OBJECT, "data": {"a": UNKNOWN}}, {"enableConfigMapMutable": True}, "update"),
        (OBJECT, {**OBJECT, "metadata": {"name": "y"}}, {"enableConfigMapMutable": True}, "replace"),
        (OBJECT, {**OBJECT, "metadata": {"name": "x", "labels": {"a": "b"}}}, {}, "update"),
    ],
)
def test_what_a_change_comes_to(
    old: dict[str, Any], new: dict[str, Any], provider: dict[str, Any], operation: str
) -> None:
    assert decide(registration(CONFIG_MAP, new), entry("x", inputs=old), provider).operation == operation


def test_a_secret_that_only_gained_its_mark_is_no_change() -> None:
    new = {**OBJECT, "data": {"a": Secret("1")}}
    assert decide(registration(CONFIG_MAP, new), entry("x", inputs=OBJECT), {}).operation == "same"


def test_ignored_fields_stay_as_they_were() -> None:
    old = entry("x", inputs={"spec": {"replicas": 1, "image": "a"}})
    new = registration(
        CONFIG_MAP, {"spec": {"replicas": 5, "image": "b", "new": 1}}, ignore_changes=("spec.replicas", "spec.new")
    )
    decision = decide(new, old, {})
    assert decision.inputs == {"spec": {"replicas": 1, "image": "b"}}
    assert decision.diff_keys == ("spec.image",)


def test_a_replaced_provider_replaces_what_it_manages() -> None:
    old = entry("x", inputs=OBJECT, provider="urn::1")
    assert decide(registration(CONFIG_MAP, OBJECT, provider="urn::2"), old, {}).operation == "replace"


@pytest.mark.parametrize(
    ("old", "new", "operation"),
    [
        ({"kubeconfig": "a", "clusterIdentifier": "c"}, {"kubeconfig": "b", "clusterIdentifier": "c"}, "update"),
        ({"kubeconfig": "a", "clusterIdentifier": "c"}, {"kubeconfig": "a", "clusterIdentifier": "d"}, "replace"),
        ({"kubeconfig": "a"}, {"kubeconfig": "b"}, "replace"),
    ],
)
def test_when_a_kubernetes_provider_is_replaced(old: dict[str, Any], new: dict[str, Any], operation: str) -> None:
    kind = "pulumi:providers:kubernetes"
    assert decide(registration(kind, new), entry("x", type_token=kind, inputs=old), {}).operation == operation


def test_whoever_depends_on_a_component_goes_before_what_is_inside() -> None:
    component = entry("c", type_token="a:b:C", custom=False)
    inside = entry("inside", parent=component.urn)
    provider = entry("p", type_token="pulumi:providers:kubernetes")
    user = entry("user", depends_on=(component.urn,), provider=f"{provider.urn}::id")
    before = dependents_first([component, inside, provider, user])
    assert before[component.urn] == {inside.urn, user.urn}
    assert before[inside.urn] == {user.urn}
    assert before[provider.urn] == {user.urn}
    assert before[user.urn] == set()


def test_the_release_inside_a_cert_manager_component() -> None:
    options = {"version": "v1.20.1", "repositoryOpts": {"repo": "./charts"}, "values": {"a": 1, "replicaCount": 1}}
    component = registration(
        "kubernetes-cert-manager:index:CertManager",
        {"installCRDs": True, "replicaCount": 2, "helmOptions": options},
        providers={"kubernetes": "urn::id"},
    )
    release = cert_manager_release(component, "urn:child")
    assert (release.name, release.parent, release.provider) == ("x-helm", component.urn, "urn::id")
    assert release.inputs == {
        "version": "v1.20.1",
        "chart": "cert-manager",
        "repositoryOpts": {"repo": "./charts"},
        "values": {"a": 1, "replicaCount": 2, "installCRDs": True},
    }


DEPLOYMENT = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "web", "namespace": "ns", "generation": 2},
    "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}},
}
SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web", "namespace": "ns"},
    "spec": {"selector": {"app": "web"}},
}


class FakeApi:
    """Answers lists by the end of their path."""

    def __init__(self, lists: dict[str, list[dict[str, Any]]]) -> None:
        self.lists = lists

    def get(self, path: str) -> dict[str, Any]:
        return {"items": self.lists.get(path.rsplit("/", 1)[-1], [])}


class FakeKube:
    """A cluster in which nothing changes."""

    def __init__(self, live: dict[str, Any], lists: dict[str, list[dict[str, Any]]]) -> None:
        self.live = live
        self.api = FakeApi(lists)

    def get(self, kind: Kind, key: tuple[str, str]) -> dict[str, Any] | None:
        return self.live


def missing(live: dict[str, Any], **lists: list[dict[str, Any]]) -> str:
    """What the object still lacks; empty when it is ready."""
    kube = cast(Kube, FakeKube(live, lists))
    kind = Kind(api_version=live["apiVersion"], plural="x", kind=live["kind"])
    try:
        kubernetes_await.until_ready(kube, kind, live, seconds=0.0, stopped=threading.Event())
    except kubernetes_await.NotReadyError as error:
        return str(error)
    return ""


PENDING_POD = {
    "metadata": {"name": "web-1", "namespace": "ns", "labels": {"app": "web"}},
    "status": {
        "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no node"}]
    },
}


FAILED_JOB = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {"name": "j", "namespace": "ns"},
    "spec": {},
    "status": {"conditions": [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "m"}]},
}


def custom(wait_for: str) -> dict[str, Any]:
    return {
        "apiVersion": "example.com/v1",
        "kind": "Widget",
        "metadata": {"name": "w", "annotations": {"pulumi.com/waitFor": wait_for}},
        "status": {"phase": "Up"},
    }


@pytest.mark.parametrize(
    ("live", "lists", "expected"),
    [
        (DEPLOYMENT, {}, "the controller has not seen it"),
        (
            {**DEPLOYMENT, "status": {"observedGeneration": 2, "updatedReplicas": 2, "availableReplicas": 1}},
            {"pods": [PENDING_POD]},
            "1 of 2 replicas available; Unschedulable: no node",
        ),
        ({**DEPLOYMENT, "status": {"observedGeneration": 2, "updatedReplicas": 2, "availableReplicas": 2}}, {}, ""),
        (SERVICE, {}, "no endpoints yet"),
        ({**SERVICE, "spec": {"clusterIP": "None", "selector": {"app": "web"}}}, {}, ""),
        ({**SERVICE, "spec": {"type": "LoadBalancer"}}, {}, "no load balancer address"),
        (FAILED_JOB, {}, "failed: BackoffLimitExceeded: m"),
        ({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}, {}, ""),
        (custom("condition=Ready"), {}, "condition Ready"),
        (custom("jsonpath={.status.phase}=Up"), {}, ""),
        (custom("jsonpath={.status.phase}=Down"), {}, ".status.phase} is Up"),
    ],
)
def test_what_is_waited_for(live: dict[str, Any], lists: dict[str, Any], expected: str) -> None:
    said = missing(live, **lists)
    assert said.endswith(expected)
    assert bool(said) == bool(expected)


def test_a_service_waits_for_pods_that_are_not_ready_but_not_for_none() -> None:
    labels = {"labels": {"kubernetes.io/service-name": "web"}, "name": "web-1", "namespace": "ns"}
    assert missing(SERVICE, endpointslices=[{"metadata": labels, "endpoints": None}]) == ""
    waiting = {"metadata": labels, "endpoints": [{"conditions": {"ready": False}}]}
    assert missing(SERVICE, endpointslices=[waiting]).endswith("1 of its pods are not ready")
