"""What a person does next with a stack that is up: commands to copy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from planner.naming import MONITORING_NAMESPACE
from planner.plan import EksPlan, ModelPlan, Plan

_LOCAL_PORT = 8080


def instructions(plan: Plan) -> Mapping[str, Any]:
    """Outputs that need no cloud: commands, money and capacity."""
    return {
        "kubeconfig_command": _kubeconfig(plan),
        "grafana_command": (
            f"kubectl --namespace {MONITORING_NAMESPACE} port-forward svc/kube-prometheus-stack-grafana 3000:80"
        ),
        "models": {model.name: _model(model) for model in plan.models if model.is_endpoint},
        "next": f"python -m ops wait --stack {plan.stack} && python -m ops smoke --stack {plan.stack}",
        "cost": {
            "start_usd_per_hour": plan.cost.base_usd_per_hour,
            "idle_usd_per_hour": plan.cost.idle_usd_per_hour,
            "peak_usd_per_hour": plan.cost.peak_usd_per_hour,
        },
    }


def _kubeconfig(plan: Plan) -> str:
    if isinstance(plan.target, EksPlan):
        return f"aws eks update-kubeconfig --region {plan.region} --name {plan.target.cluster_name}"
    context = f" --context {plan.target.context}" if plan.target.context else ""
    return f"kubectl --kubeconfig {plan.target.kubeconfig}{context} get nodes"


def _model(model: ModelPlan) -> Mapping[str, Any]:
    namespace, url = model.namespace, f"http://localhost:{_LOCAL_PORT}/v1/chat/completions"
    body = f'{{"model": "{model.name}", "messages": [{{"role": "user", "content": "Say hello."}}], "max_tokens": 32}}'
    headers = ["Content-Type: application/json"]
    if model.runtime != "ray_service":  # Ray Serve LLM checks no key
        secret = model.api_key
        read = f"kubectl --namespace {namespace} get secret {secret.name} --output jsonpath='{{.data.{secret.key}}}'"
        headers.append(f"Authorization: Bearer $({read} | base64 --decode)")
    flags = " ".join(f'--header "{header}"' for header in headers)
    ports = f"{_LOCAL_PORT}:{model.service_port}"
    return {
        "port_forward": f"kubectl --namespace {namespace} port-forward svc/{model.name} {ports}",
        "curl": f"curl --silent {url} {flags} --data '{body}'",
    }
