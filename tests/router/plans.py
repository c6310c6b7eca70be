"""Models with a router, planned from the stack file of prod with its small model changed."""

from __future__ import annotations

from typing import Any

from planner import plan_document
from planner.plan import ModelPlan, Plan
from settings.load import Document
from tests.factories import model_of
from tests.stacks import PLATFORM, document

SMALL, LARGE, SPARE = "llama-8b", "deepseek-r1", "spare"


def planned(
    model: str = SMALL, *, without: tuple[str, ...] = (), spare: dict[str, Any] | None = None, **fields: Any
) -> Plan:
    """The plan of prod with fields of one model set, and others left out; `spare` adds a second small one."""
    platform = document("prod")["config"][PLATFORM]
    models: list[dict[str, Any]] = platform["models"]
    (chosen,) = [one for one in models if one["name"] == model]
    if spare is not None:
        small = next(one for one in models if one["name"] == SMALL)
        kept = {key: value for key, value in small.items() if key != "traffic"}
        models.append({**kept, "name": SPARE, "pool": "a100", "replicas": {"min": 1, "max": 1}, **spare})
    chosen.update(fields)
    for key in without:
        chosen.pop(key)
    found = Document(file="Pulumi.prod.yaml", platform=platform, region="us-east-1", text=None)
    return plan_document(found, stack="prod")[1]


def disaggregated(engine: str = "vllm", **fields: Any) -> Plan:
    """Prefill and decode of a 70B model apart on the large nodes."""
    platform = document("prod")["config"][PLATFORM]
    platform.pop("budget", None)
    (chosen,) = [one for one in platform["models"] if one["name"] == SMALL]
    for key in ("replicas", "layout", "traffic", "autoscaling"):
        chosen.pop(key, None)
    group = {"layout": {"tensor": 4}, "replicas": {"min": 2, "max": 4}}
    chosen.update(
        {
            "model": "meta-llama/Llama-3.3-70B-Instruct",
            "pool": "h100",
            "engine": engine,
            "context_tokens": 16384,
            "image": {
                "repository": f"registry.example.com/{engine}-efa",
                "tag": "v1",
                "carries_efa": True,
                "carries_nixl": True,
            },
            "disaggregated": {"prefill": group, "decode": group},
            "objectives": {"ttft_p99_ms": 2500, "tpot_p99_ms": 40},
            "traffic": {
                "requests_per_second": 2,
                "input_tokens": {"mean": 4000, "p99": 9000},
                "output_tokens": {"mean": 400},
            },
            **fields,
        }
    )
    platform["cache"]["load_seconds"] = 600
    platform["pools"][0]["capacity"][-1]["nodes"]["max"] = 8
    found = Document(file="Pulumi.prod.yaml", platform=platform, region="us-east-1", text=None)
    return plan_document(found, stack="prod")[1]


def routed() -> ModelPlan:
    """Up to five replicas."""
    return model_of(planned(), SMALL)


def asleep() -> ModelPlan:
    """May have no replica."""
    return model_of(planned(replicas={"min": 0, "max": 4}), SMALL)


def with_standby() -> ModelPlan:
    """Another model stands by."""
    return model_of(planned(spare={}, standby={"model": SPARE}), SMALL)
