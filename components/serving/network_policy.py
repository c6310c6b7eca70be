"""Who may reach a model's pods, and what they may reach."""

from __future__ import annotations

from typing import Any

import pulumi_kubernetes as k8s

from components.serving.pods import object_labels, selector_labels
from components.serving.ray_service import HEAD_PORTS
from planner.naming import CLIENT_LABEL, MODEL_LABEL, MONITORING_NAMESPACE, RAY_NAMESPACE, SYSTEM_NAMESPACE
from planner.plan import ModelPlan
from planner.routing import router_name

_NAMESPACE_NAME = "kubernetes.io/metadata.name"

_POD_IDENTITY_AGENT = "169.254.170.23/32"
"""Where EKS Pod Identity hands out credentials. Source: EKS user guide, pod identity considerations."""


def rules(model: ModelPlan) -> dict[str, Any]:
    """The policy's spec, as the API has it.

    Engines guard some routes with their key and leave others open (vLLM: /tokenize, /metrics and more; Ray Serve: all),
    so who cannot be a client must not get through at all. EFA traffic passes no policy: security groups guard it.
    """
    same_model = {"podSelector": {"matchLabels": selector_labels(model)}}
    http, metrics = _tcp(model.container.port), _tcp(model.container.metrics_port)
    ingress: list[dict[str, Any]] = [
        {"from": [same_model]},
        {"from": [{"podSelector": {"matchLabels": _clients(model)}}], "ports": [http]},
        {"from": [_namespace(MONITORING_NAMESPACE)], "ports": [metrics]},
    ]
    dns = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]
    egress: list[dict[str, Any]] = [{"to": [same_model]}, {"to": [_namespace(SYSTEM_NAMESPACE)], "ports": dns}]
    if model.disaggregation is not None:
        # Side channel, bootstrap server and the ports that both engines choose by chance.
        peer = {"podSelector": {"matchLabels": {**selector_labels(model), MODEL_LABEL: model.disaggregation.peer}}}
        ingress.append({"from": [peer]})
        egress.append({"to": [peer]})
    if model.runtime == "ray_service":
        # The operator submits the application to the head's dashboard and asks Serve's proxy for its health.
        ingress.append({"from": [_namespace(RAY_NAMESPACE)], "ports": [_tcp(HEAD_PORTS["dashboard"]), http]})
        # The autoscaler beside the head talks to the API server: 443, or 6443 outside EKS.
        egress.append({"ports": [_tcp(443), _tcp(6443)]})
    for store in model.stores:
        pods = {"app.kubernetes.io/name": "valkey", MODEL_LABEL: store.name}
        egress.append({"to": [{"podSelector": {"matchLabels": pods}}], "ports": [_tcp(store.port)]})
    if model.weights.medium == "s3_stream":
        egress.append({"ports": [_tcp(443)]})
        egress.append({"to": [{"ipBlock": {"cidr": _POD_IDENTITY_AGENT}}], "ports": [_tcp(80)]})
    return {
        "podSelector": {"matchLabels": selector_labels(model)},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": ingress,
        "egress": egress,
    }


def _clients(model: ModelPlan) -> dict[str, str]:
    """Who may ask: of two groups only the router, since one alone answers nobody."""
    if model.disaggregation is not None:
        return {MODEL_LABEL: router_name(model.disaggregation.serves)}
    return {CLIENT_LABEL: "true"}


def metadata(model: ModelPlan) -> k8s.meta.v1.ObjectMetaArgs:
    """Named like the model."""
    return k8s.meta.v1.ObjectMetaArgs(name=model.name, namespace=model.namespace, labels=object_labels(model))


def _tcp(port: int) -> dict[str, Any]:
    return {"protocol": "TCP", "port": port}


def _namespace(name: str) -> dict[str, Any]:
    return {"namespaceSelector": {"matchLabels": {_NAMESPACE_NAME: name}}}
