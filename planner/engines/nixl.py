"""What both engines are told so that one group's KV cache reaches the other by NIXL.

Sources: vLLM 0.33, docs/features/nixl_connector_usage.md and vllm/envs.py; SGLang 0.5.23,
docs/advanced_features/pd_disaggregation.md and srt/environ.py; on EFA NVIDIA Dynamo's guide to KV cache transfer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from planner.engines.arguments import Argument, option
from planner.plan import DisaggregationPlan, EnvVar

_KV_ROLES = {"prefill": "kv_producer", "decode": "kv_consumer"}


def vllm_connector(group: DisaggregationPlan) -> dict[str, Any]:
    """vLLM's `kv_transfer_config`.

    A cache that does not arrive fails the request, and the router asks another pair: computed again in silence, it
    would hide that nothing ever arrives.
    """
    return {
        "kv_connector": "NixlConnector",
        "kv_role": _KV_ROLES[group.role],
        "kv_load_failure_policy": "fail",
        "kv_connector_extra_config": {"backends": [group.transport.upper()]},
    }


def sglang_arguments(group: DisaggregationPlan) -> Iterator[Argument]:
    """SGLang's options."""
    why = f"models[].disaggregated: this group does {group.role} alone"
    yield option("--disaggregation-mode", group.role, why)
    yield option("--disaggregation-transfer-backend", "nixl", "the default, mooncake, knows no EFA")
    if group.role == "prefill":
        yield option("--disaggregation-bootstrap-port", group.port, "where decode asks how to read the cache")


def env(group: DisaggregationPlan, engine: str) -> Iterator[EnvVar]:
    """Environment of every pod of a group."""
    # Libfabric's way between processes of one node would break NIXL's registrations of GPU memory.
    yield EnvVar(name="FI_EFA_ENABLE_SHM_TRANSFER", value="0")
    if engine == "sglang":
        yield EnvVar(name="SGLANG_DISAGGREGATION_NIXL_BACKEND", value=group.transport.upper())
        return
    yield EnvVar(name="VLLM_NIXL_SIDE_CHANNEL_HOST", field_path="status.podIP")
    yield EnvVar(name="VLLM_NIXL_SIDE_CHANNEL_PORT", value=str(group.port))
