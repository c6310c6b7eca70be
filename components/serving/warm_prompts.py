"""Prompts that a pod computes before it is ready: a script and a file, and the startup probe that runs them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from planner.naming import PROJECT
from planner.plan import ModelPlan, ProbePlan, WarmPromptsPlan

ANNOTATION = f"{PROJECT}/warm-prompts"
"""Of pods: changes with the prompts."""

_SCRIPT = Path(__file__).parents[1] / "scripts" / "warm_prompts.py"
_MOUNT = "/opt/warm-prompts"
_CONFIG = "prompts.json"
_PROGRAM = "warm_prompts.py"
_KEYS = {"vllm": "VLLM_API_KEY", "sglang": "SGLANG_API_KEY"}
_MARGIN_SECONDS = 10
"""Above the script's own limit: it ends by itself before the kubelet ends it."""


def config_map_name(model: ModelPlan) -> str:
    """Of the model's own."""
    return f"{model.name}-warm-prompts"


def data(model: ModelPlan, plan: WarmPromptsPlan) -> dict[str, str]:
    """Script and prompts, by file name."""
    engine = f"http://127.0.0.1:{model.container.port}"
    startup = model.container.startup
    if startup is None:
        raise ValueError(f"model {model.name}: prompts are replayed by the startup probe, and it has none")
    config = {
        "model": model.name,
        "health": f"{engine}{startup.path}",
        "completions": f"{engine}/v1/chat/completions",
        "key_variable": _KEYS[model.engine],
        "limit_seconds": plan.limit_seconds,
        "caches": plan.caches,
        "prompts": list(plan.prompts),
    }
    return {_PROGRAM: _SCRIPT.read_text(encoding="utf-8"), _CONFIG: json.dumps(config, ensure_ascii=False)}


def digest(plan: WarmPromptsPlan) -> str:
    """Short hash of the prompts."""
    return hashlib.sha256(json.dumps(plan.prompts).encode()).hexdigest()[:12]


def probe(startup: ProbePlan, plan: WarmPromptsPlan) -> dict[str, Any]:
    """The startup probe: readiness and liveness are not asked before it has passed."""
    return {
        "exec": {"command": ["python3", f"{_MOUNT}/{_PROGRAM}", f"{_MOUNT}/{_CONFIG}"]},
        "periodSeconds": startup.period_seconds,
        "timeoutSeconds": plan.limit_seconds + _MARGIN_SECONDS,
        "failureThreshold": startup.failure_threshold,
    }


def mount(model: ModelPlan) -> tuple[dict[str, Any], dict[str, Any]]:
    """(volume, mount) of script and prompts."""
    name = "warm-prompts"
    return (
        {"name": name, "configMap": {"name": config_map_name(model)}},
        {"name": name, "mountPath": _MOUNT, "readOnly": True},
    )
