"""What a pod's specification names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from planner.plan import Plan
from rehearsal.findings import Finding
from rehearsal.injections import planned_secrets
from rehearsal.references import containers, references
from rehearsal.snapshot import Runner, Snapshot

_MOVING_TAGS: Final = {"latest", "main", "master", "nightly", "dev", ""}
# Kubernetes makes these on every cluster, and names them without creating an object first.
_BUILT_IN_PRIORITIES: Final = {"system-node-critical", "system-cluster-critical"}
# Controllers write these when they run, which nothing does here: KEDA's certificates (`--enable-cert-rotation`).
_MADE_AT_RUN_TIME: Final = {("keda", "kedaorg-certs")}
_WAYS: Final = ("httpGet", "tcpSocket", "grpc")
_PROBES: Final = ("startupProbe", "readinessProbe", "livenessProbe")


def names_that_exist(snapshot: Snapshot, plan: Plan) -> Iterator[Finding]:  # noqa: ARG001 - the checks' signature
    """Every Secret, ConfigMap and claim that a pod needs exists, with the key that it names."""
    for runner in snapshot.runners:
        for reference in references(runner.spec):
            found = snapshot.get(reference.kind, runner.namespace, reference.name)
            what = f"{reference.kind} {runner.namespace}/{reference.name}"
            if found is None:
                if (runner.namespace, reference.name) in _MADE_AT_RUN_TIME:
                    continue
                problem, remedy = f"{what} does not exist", "create it, or declare it in the stack file's secrets"
            elif reference.key and reference.key not in {**found.get("data", {}), **found.get("binaryData", {})}:
                problem, remedy = f"{what} has no key `{reference.key}`", "add the key, or name the right one"
            elif reference.types and found.get("type") not in reference.types:
                problem = f"{what} is of type `{found.get('type')}`: no image is pulled with it"
                remedy = f"make it anew as {reference.types[0]}: `kubectl create secret docker-registry`"
            else:
                continue
            yield Finding(
                check=reference.kind.lower(),
                subject=runner.subject,
                field=reference.field,
                problem=problem,
                remedy=remedy,
            )


def planned_secrets_exist(snapshot: Snapshot, plan: Plan) -> Iterator[Finding]:
    """Every Secret of the plan exists with its key, also those that only charts read."""
    for secret in planned_secrets(plan):
        found = snapshot.get("Secret", secret.namespace, secret.name)
        if found is None or secret.key not in found.get("data", {}):
            yield Finding(
                check="secret",
                subject=f"Secret {secret.namespace}/{secret.name}",
                field=f"data.{secret.key}",
                problem="does not exist" if found is None else f"has no key `{secret.key}`",
                remedy=f"its source is `{secret.source.kind}`: see that it gives a value",
            )


def credentials_for_images(snapshot: Snapshot, plan: Plan) -> Iterator[Finding]:
    """Where the stack has credentials for registries, every pod of this project pulls with them."""
    where = {secret.namespace: secret.name for secret in plan.pull_secrets}
    for runner in snapshot.runners if where else ():
        named = {one["name"] for one in runner.spec.get("imagePullSecrets", ())}
        if not runner.from_chart and runner.namespace in where and where[runner.namespace] not in named:
            yield Finding(
                check="secret",
                subject=runner.subject,
                field="imagePullSecrets",
                problem=f"pulls its images without `{plan.pull_secret}`",
                remedy="declare it with the credentials that the stack file names",
            )


def accounts_and_classes(snapshot: Snapshot, plan: Plan) -> Iterator[Finding]:  # noqa: ARG001
    """ServiceAccounts, PriorityClasses, RuntimeClasses and StorageClasses exist."""
    for runner in snapshot.runners:
        spec = runner.spec
        named = (
            ("ServiceAccount", runner.namespace, "serviceAccountName"),
            ("PriorityClass", "", "priorityClassName"),
            ("RuntimeClass", "", "runtimeClassName"),
        )
        for kind, namespace, field in named:
            name = spec.get(field)
            if name and name not in _BUILT_IN_PRIORITIES and snapshot.get(kind, namespace, name) is None:
                yield _missing(runner.subject, field, kind, name)
    for claim in snapshot.all("PersistentVolumeClaim"):
        name = claim["spec"].get("storageClassName")
        if name and not claim["spec"].get("volumeName") and snapshot.get("StorageClass", "", name) is None:
            subject = f"PersistentVolumeClaim {claim['metadata']['namespace']}/{claim['metadata']['name']}"
            yield _missing(subject, "spec.storageClassName", "StorageClass", name)


def pinned_images(snapshot: Snapshot, plan: Plan) -> Iterator[Finding]:  # noqa: ARG001
    """No image moves by itself."""
    for runner in snapshot.runners:
        for path, container in containers(runner.spec):
            image = container["image"]
            last = image.rsplit("/", 1)[-1]
            if "@sha256:" not in image and last.partition(":")[2] in _MOVING_TAGS:
                yield Finding(
                    check="image",
                    subject=runner.subject,
                    field=f"{path}.image",
                    problem=f"`{image}` is not pinned",
                    remedy="name a release tag or a digest",
                )


def probe_ports(snapshot: Snapshot, plan: Plan) -> Iterator[Finding]:  # noqa: ARG001
    """A probe asks a port that its container declares; charts of others may ask an undeclared one by number."""
    for runner in snapshot.runners:
        for path, container in containers(runner.spec):
            for name in _PROBES:
                probe: dict[str, dict[str, Any]] = container.get(name, {})
                port = next((probe[way]["port"] for way in _WAYS if way in probe), None)
                if port is None or (runner.from_chart and isinstance(port, int)):
                    continue
                if port not in port_names(container):
                    yield Finding(
                        check="probe",
                        subject=runner.subject,
                        field=f"{path}.{name}",
                        problem=f"port {port} is not declared by container `{container['name']}`",
                        remedy="declare the port, or probe the one that the container listens on",
                    )


def port_names(container: Any) -> set[str | int]:
    """Names and numbers of a container's declared ports."""
    ports = container.get("ports", ())
    return {port["containerPort"] for port in ports} | {port["name"] for port in ports if "name" in port}


def ports_of(runner: Runner) -> set[str | int]:
    """Names and numbers of all ports that a pod declares."""
    return {port for _, container in containers(runner.spec) for port in port_names(container)}


def _missing(subject: str, field: str, kind: str, name: str) -> Finding:
    return Finding(
        check=kind.lower(),
        subject=subject,
        field=field,
        problem=f"{kind} {name} does not exist",
        remedy="create it before what names it",
    )
