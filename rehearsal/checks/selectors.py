"""What selects pods, and what points at other objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from planner.naming import MODEL_LABEL
from planner.plan import Plan
from rehearsal.charts import STAND_IN_CONTAINER
from rehearsal.checks.pods import ports_of
from rehearsal.findings import Finding
from rehearsal.kube import Json, key_of
from rehearsal.references import containers
from rehearsal.snapshot import Runner, Snapshot, matches, subject

_NAMESPACE_NAME: Final = "kubernetes.io/metadata.name"


def services(snapshot: Snapshot, plan: Plan) -> Iterator[Finding]:  # noqa: ARG001 - the checks' signature
    """A Service's selector finds pods, and they declare the port that it sends to."""
    for service in snapshot.all("Service"):
        selector = service["spec"].get("selector")
        if not selector:
            continue
        chosen = _chosen(snapshot, service, {"matchLabels": selector})
        name = subject("Service", key_of(service))
        if not chosen:
            yield _selects_nothing("service", name, "spec.selector", selector)
            continue
        for index, port in enumerate(service["spec"].get("ports", ())):
            target = port.get("targetPort", port["port"])
            lacking = sorted({one.subject for one in chosen if target not in ports_of(one)})
            if lacking:
                yield Finding(
                    check="service",
                    subject=name,
                    field=f"spec.ports[{index}].targetPort",
                    problem=f"port {target} is not declared by {', '.join(lacking)}",
                    remedy="name a port that all selected pods declare",
                )


def monitors(snapshot: Snapshot, plan: Plan) -> Iterator[Finding]:
    """A PodMonitor finds pods with the port that it scrapes."""
    for monitor in snapshot.all("PodMonitor"):
        spec = monitor["spec"]
        chosen = _chosen(snapshot, monitor, spec["selector"], _namespaces(snapshot, monitor))
        name = subject("PodMonitor", key_of(monitor))
        if not chosen and _asleep(plan, spec["selector"]):
            continue
        if not chosen:
            yield _selects_nothing("podmonitor", name, "spec.selector", spec["selector"])
            continue
        for index, endpoint in enumerate(spec.get("podMetricsEndpoints", ())):
            port = endpoint.get("port") or endpoint.get("portNumber")
            if not any(port in ports_of(one) for one in chosen):
                yield Finding(
                    check="podmonitor",
                    subject=name,
                    field=f"spec.podMetricsEndpoints[{index}].port",
                    problem=f"no selected pod declares the port `{port}`",
                    remedy="name the port under which the pods serve metrics",
                )


def disruption_budgets(snapshot: Snapshot, plan: Plan) -> Iterator[Finding]:
    """A PodDisruptionBudget guards pods that exist."""
    for budget in snapshot.all("PodDisruptionBudget"):
        selector = budget["spec"].get("selector")
        if not _chosen(snapshot, budget, selector) and not _asleep(plan, selector):
            name = subject("PodDisruptionBudget", key_of(budget))
            yield _selects_nothing("disruption-budget", name, "spec.selector", selector)


def _asleep(plan: Plan, selector: Mapping[str, Any] | None) -> bool:
    """Whether pods of a model are selected that starts without a replica: a LeaderWorkerSet has none then."""
    labels: Mapping[str, str] = (selector or {}).get("matchLabels") or {}
    selected = labels.get(MODEL_LABEL)
    return any(model.name == selected and model.scaling.min_replicas == 0 for model in plan.models)


def _stands_in(runner: Runner) -> bool:
    """Whether a pod is a chart's stand-in."""
    return any(container["name"] == STAND_IN_CONTAINER for _, container in containers(runner.spec))


def network_policies(snapshot: Snapshot, plan: Plan) -> Iterator[Finding]:
    """A NetworkPolicy guards pods that exist, opens ports that they have, and names namespaces that exist."""
    for policy in snapshot.all("NetworkPolicy"):
        spec = policy["spec"]
        name = subject("NetworkPolicy", key_of(policy))
        chosen = _chosen(snapshot, policy, spec.get("podSelector"))
        if not chosen and _asleep(plan, spec.get("podSelector")):
            continue
        if not chosen:
            yield _selects_nothing("network-policy", name, "spec.podSelector", spec.get("podSelector"))
            continue
        if any(_stands_in(one) for one in chosen):
            continue  # what the chart's own pods listen on is not seen here
        declared = {port for one in chosen for port in ports_of(one)}
        for index, rule in enumerate(spec.get("ingress", ())):
            for port in rule.get("ports", ()):
                if "port" in port and "endPort" not in port and port["port"] not in declared:
                    yield Finding(
                        check="network-policy",
                        subject=name,
                        field=f"spec.ingress[{index}].ports",
                        problem=f"port {port['port']} is open but no selected pod declares it",
                        remedy="open the port that the pods listen on",
                    )
        for field, rules, side in (
            ("ingress", spec.get("ingress", ()), "from"),
            ("egress", spec.get("egress", ()), "to"),
        ):
            for index, rule in enumerate(rules):
                for peer in rule.get(side, ()):
                    named = peer.get("namespaceSelector", {}).get("matchLabels", {}).get(_NAMESPACE_NAME)
                    if named and snapshot.get("Namespace", "", named) is None:
                        yield Finding(
                            check="network-policy",
                            subject=name,
                            field=f"spec.{field}[{index}].{side}",
                            problem=f"namespace {named} does not exist",
                            remedy="name the namespace of the pods that must get through",
                        )


def scaled_objects(snapshot: Snapshot, plan: Plan) -> Iterator[Finding]:  # noqa: ARG001
    """A ScaledObject's target exists."""
    for item in snapshot.all("ScaledObject"):
        yield from _target(snapshot, "ScaledObject", item, item["spec"]["scaleTargetRef"])


def autoscalers(snapshot: Snapshot, plan: Plan) -> Iterator[Finding]:  # noqa: ARG001
    """An autoscaler's target exists."""
    for item in snapshot.all("HorizontalPodAutoscaler"):
        yield from _target(snapshot, "HorizontalPodAutoscaler", item, item["spec"]["scaleTargetRef"])


def _target(snapshot: Snapshot, kind: str, item: Json, target: Mapping[str, str]) -> Iterator[Finding]:
    namespace = item["metadata"]["namespace"]
    wanted = target.get("kind", "Deployment")
    if snapshot.get(wanted, namespace, target["name"]) is None:
        yield Finding(
            check=kind.lower(),
            subject=subject(kind, key_of(item)),
            field="spec.scaleTargetRef",
            problem=f"{wanted} {namespace}/{target['name']} does not exist",
            remedy="name the workload that it scales",
        )


def _namespaces(snapshot: Snapshot, monitor: Json) -> Sequence[str]:
    selector = monitor["spec"].get("namespaceSelector", {})
    if selector.get("any"):
        return [namespace["metadata"]["name"] for namespace in snapshot.all("Namespace")]
    return selector.get("matchNames") or [monitor["metadata"]["namespace"]]


def _chosen(
    snapshot: Snapshot, item: Json, selector: Mapping[str, Any] | None, namespaces: Sequence[str] | None = None
) -> list[Runner]:
    """What a selector picks; pods count with the labels they live with, templates with those they will give."""
    where = namespaces or [item["metadata"]["namespace"]]
    return [one for one in snapshot.runners if one.namespace in where and matches(selector, one.labels)]


def _selects_nothing(check: str, name: str, field: str, selector: Mapping[str, Any] | None) -> Finding:
    return Finding(
        check=check,
        subject=name,
        field=field,
        problem=f"{_words(selector)} selects no pod",
        remedy="use labels that the pods carry",
    )


def _words(selector: Mapping[str, Any] | None) -> str:
    labels: Mapping[str, str] = (selector or {}).get("matchLabels", selector) or {}
    return "`" + ",".join(f"{name}={value}" for name, value in sorted(labels.items())) + "`"
