"""The real effects of the in-process engine: objects in the API server, charts by helm. AWS has none."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

import yaml

from rehearsal.engines import answers, kubernetes_rules, paths, values
from rehearsal.engines.contract import EngineError, EngineInputs
from rehearsal.engines.diff import Decision
from rehearsal.engines.helm_release import Helm
from rehearsal.engines.kubernetes_apply import KubernetesObjects, ObjectError
from rehearsal.engines.program import Answer, Registration
from rehearsal.engines.state import Entry
from rehearsal.engines.values import Properties, Secret

DELETE_SECONDS: Final = 120
"""How long a deletion may take. Pods of KWOK nodes go at once; what holds longer has a finalizer nobody removes."""


class Effects:
    """Applies and deletes what lives in the cluster. Safe to use from many threads."""

    def __init__(self, inputs: EngineInputs, *, await_seconds: float) -> None:
        """`await_seconds`: how long to wait for an object that does not say so itself."""
        self._inputs = inputs
        self._await_seconds = await_seconds
        self._helm = None if inputs.helm is None else self._make_helm(inputs, inputs.helm)
        self._made: KubernetesObjects | None = None
        self._lock = threading.Lock()

    @property
    def _objects(self) -> KubernetesObjects:
        """Made at the first object: a program of AWS resources alone needs no control plane."""
        with self._lock:
            if self._made is None:
                given = self._inputs
                self._made = KubernetesObjects(
                    endpoint=given.endpoint,
                    ca_data=given.ca_data,
                    token=given.token,
                    await_seconds=self._await_seconds,
                )
            return self._made

    def stop(self) -> None:
        """Ends every wait."""
        if self._made is not None:
            self._made.stop()
        if self._helm is not None:
            self._helm.stop()

    def apply(self, registration: Registration, decision: Decision, old: Entry | None, namespace: str | None) -> Answer:
        """Creates, updates or replaces an object or a release.

        Args:
            registration: what the program declares.
            decision: what that comes to; `same` is not for here.
            old: the entry as it was.
            namespace: the provider's default namespace.
        """
        if registration.type == kubernetes_rules.RELEASE:
            return self._release(registration, decision, old, namespace)
        declared = kubernetes_rules.named(values.reveal(decision.inputs), registration.name, registration.urn)
        if namespace and "namespace" not in declared["metadata"]:
            declared["metadata"]["namespace"] = namespace
        patch = kubernetes_rules.is_patch(registration.type, declared)
        if old is not None and decision.operation == "replace" and not patch:
            same_name = _identity(values.reveal(old.outputs)) == _identity(declared)
            if same_name or registration.delete_before_replace:
                self.delete(old)
        ignored = tuple(paths.parse(path) for path in registration.ignore_changes) if old is not None else ()
        live = self._objects.apply(declared, ignored=ignored if decision.operation == "update" else ())
        return Answer(id=_object_id(live), outputs=_object_outputs(live, registration))

    def read(self, registration: Registration, resource_id: str) -> Answer:
        """The live object with the id `[namespace/]name`."""
        group, _, version = registration.type.split(":")[1].rpartition("/")
        namespace, _, name = resource_id.rpartition("/")
        declared = {
            "apiVersion": version if group == "core" else f"{group}/{version}",
            "kind": registration.type.split(":")[2],
            "metadata": {"name": name, **({"namespace": namespace} if namespace else {})},
        }
        live = self._objects.get(declared)
        if live is None:
            raise ObjectError(f"{declared['kind']} {resource_id}: no such object")
        return Answer(id=resource_id, outputs=_object_outputs(live, registration))

    def delete(self, entry: Entry) -> None:
        """Removes what the entry stands for in the cluster, and waits until it is gone."""
        if entry.external or not entry.custom:
            return
        outputs = cast(Properties, values.reveal(entry.outputs))
        if entry.type == kubernetes_rules.RELEASE:
            namespace, _, name = (entry.id or "").rpartition("/")
            self._need_helm().uninstall(name, namespace, seconds=DELETE_SECONDS)
        elif kubernetes_rules.is_object(entry.type) and outputs:
            if kubernetes_rules.is_patch(entry.type, outputs):
                self._objects.relinquish(outputs)
            else:
                self._objects.delete(outputs, seconds=DELETE_SECONDS)

    def remove_dead_api_services(self) -> list[str]:
        """See `KubernetesObjects.remove_dead_api_services`."""
        return self._objects.remove_dead_api_services()

    def check_provider(self, provider: Properties | None) -> None:
        """Refuses what would not reach the cluster of the rehearsal, or only by accident.

        Raises:
            ObjectError: the default provider, or a kubeconfig of another cluster.
        """
        if provider is None:
            raise ObjectError(
                "uses the default Kubernetes provider, which follows the user's own kubeconfig; "
                "pass the cluster's provider in its options"
            )
        server = _server_of(provider, self._inputs.kubeconfig)
        if server != self._inputs.endpoint:
            raise ObjectError(f"its provider points at {server}, not at the rehearsal's control plane")

    def _release(
        self, registration: Registration, decision: Decision, old: Entry | None, namespace: str | None
    ) -> Answer:
        declared = cast(Properties, values.reveal(decision.inputs))
        declared["namespace"] = declared.get("namespace") or namespace or "default"
        name = kubernetes_rules.release_name(declared, registration.name, registration.urn)
        if decision.operation == "replace" and old is not None:
            self.delete(old)
        told = self._need_helm().install(name, declared)
        outputs = answers.marked({**decision.inputs, "name": name, **told}, registration)
        return Answer(id=f"{declared['namespace']}/{name}", outputs=outputs)

    def _need_helm(self) -> Helm:
        if self._helm is None:
            raise EngineError("the program installs charts, and this engine was given no helm executable")
        return self._helm

    @staticmethod
    def _make_helm(inputs: EngineInputs, binary: Path) -> Helm:
        return Helm(
            binary=binary,
            kubeconfig=inputs.kubeconfig,
            project_dir=inputs.project_dir,
            home=inputs.workdir / "helm",
            environment=inputs.environment,
        )


def cert_manager_release(component: Registration, urn: str) -> Registration:
    """The chart release inside a `CertManager` component, as its plugin declares it.

    Source: pulumi-go-helmbase base.go (child `<name>-helm`, chart and repository defaults, typed inputs laid over
    `helmOptions.values`) and pulumi-kubernetes-cert-manager provider/pkg/provider/chart.go (the defaults themselves).
    """
    options = cast(Properties, values.reveal(component.inputs.get("helmOptions") or {}))
    typed = {key: value for key, value in component.inputs.items() if key != "helmOptions"}
    repository = cast(Properties, options.get("repositoryOpts") or {})
    inputs = {
        **options,
        "chart": options.get("chart") or "cert-manager",
        "repositoryOpts": {**repository, "repo": repository.get("repo") or "https://charts.jetstack.io"},
        "values": {**cast(Properties, options.get("values") or {}), **typed},
    }
    return Registration(
        urn=urn,
        type=kubernetes_rules.RELEASE,
        name=f"{component.name}-helm",
        parent=component.urn,
        custom=True,
        inputs=inputs,
        provider=component.providers.get("kubernetes"),
        protect=component.protect,
        retain_on_delete=component.retain_on_delete,
    )


def _object_outputs(live: Mapping[str, Any], registration: Registration) -> Properties:
    metadata = {key: value for key, value in live["metadata"].items() if key != "managedFields"}
    outputs: Properties = {**live, "metadata": metadata}
    for key, value in registration.inputs.items():
        if key in outputs and values.secret_paths(value):
            outputs[key] = Secret(outputs[key])
    if live.get("kind") == "Secret":
        outputs |= {key: Secret(outputs[key]) for key in ("data", "stringData") if key in outputs}
    return outputs


def _object_id(live: Mapping[str, Any]) -> str:
    namespace = live["metadata"].get("namespace")
    return f"{namespace}/{live['metadata']['name']}" if namespace else str(live["metadata"]["name"])


def _identity(item: Mapping[str, Any]) -> tuple[str, ...]:
    metadata = cast(Properties, item.get("metadata") or {})
    namespace = str(metadata.get("namespace") or "default")
    return str(item.get("apiVersion")), str(item.get("kind")), namespace, str(metadata.get("name"))


def _server_of(provider: Properties, default_kubeconfig: Path) -> str:
    """The address in the provider's kubeconfig (its text or a path); by default the file that KUBECONFIG names."""
    text = str(provider.get("kubeconfig") or default_kubeconfig)
    if "\n" not in text and not text.lstrip().startswith("{"):
        text = Path(text).expanduser().read_text()
    config = cast(Properties, yaml.safe_load(text))
    wanted = provider.get("context") or config.get("current-context")
    contexts = {c["name"]: c["context"] for c in cast(list[Properties], config.get("contexts") or [])}
    cluster = provider.get("cluster") or cast(Properties, contexts.get(wanted) or {}).get("cluster")
    clusters = {c["name"]: c["cluster"] for c in cast(list[Properties], config.get("clusters") or [])}
    return str(cast(Properties, clusters.get(cluster) or {}).get("server"))
