"""SGLang: command line and environment of the pinned version.

Flags: `python3 -m sglang.launch_server --help` of 0.5.23.
"""

from __future__ import annotations

from planner.engines.request import CACHE_DIRECTORY, RENDEZVOUS_PORT, EngineRequest, shared_env
from planner.plan import EnvVar


def args(request: EngineRequest) -> tuple[str, ...]:
    """Arguments of every pod; ranks beyond the first differ by LWS_WORKER_INDEX alone."""
    layout = request.layout
    line = [
        f"--model-path={request.weights.directory}",
        f"--served-model-name={request.name}",
        # The default listens on loopback only.
        "--host=0.0.0.0",
        f"--port={request.engine.port}",
        f"--tp-size={layout.tensor}",
        f"--context-length={request.context_tokens}",
        f"--max-running-requests={request.max_running}",
        f"--max-queued-requests={request.queue_limit}",
        f"--mem-fraction-static={request.utilization:.2f}",
        "--api-key=$(SGLANG_API_KEY)",
        "--enable-metrics",
    ]
    if layout.pipeline > 1:
        line.append(f"--pp-size={layout.pipeline}")
    if layout.expert > 1:
        line.append(f"--ep-size={layout.expert}")
    if layout.data > 1:
        line.append(f"--attn-dp-size={layout.data}")
    if request.quantization != "checkpoint" and request.card.checkpoint.format == "bf16":
        line.append("--quantization=fp8")
    if request.kv_cache == "fp8":
        line.append("--kv-cache-dtype=fp8_e4m3")
    if request.weights.medium == "s3_stream":
        line.append("--load-format=runai_streamer")
    else:
        # One read of the checkpoint a node instead of one a rank.
        line.append("--weight-loader-prefetch-checkpoints")
    reasoning = request.card.reasoning_parser.get("sglang")
    if reasoning:
        line.append(f"--reasoning-parser={reasoning}")
    tools = request.card.tool_parser.get("sglang")
    if tools:
        line.append(f"--tool-call-parser={tools}")
    if request.multi_node:
        line += [
            "--nnodes=$(LWS_GROUP_SIZE)",
            "--node-rank=$(LWS_WORKER_INDEX)",
            f"--dist-init-addr=$(LWS_LEADER_ADDRESS):{RENDEZVOUS_PORT}",
            f"--dist-timeout={max(600, 2 * request.startup_seconds)}",
        ]
    return tuple(line)


def env(request: EngineRequest) -> tuple[EnvVar, ...]:
    """Environment of every pod."""
    return (
        *shared_env(request),
        EnvVar(name="SGLANG_API_KEY", secret=(request.api_key.name, request.api_key.key)),
        EnvVar(name="SGLANG_CACHE_DIR", value=f"{CACHE_DIRECTORY}/sglang"),
        EnvVar(name="SGLANG_DG_CACHE_DIR", value=f"{CACHE_DIRECTORY}/deep_gemm"),
        # Liveness generates a token; the default gives it 20 s, which our probe waits out.
        EnvVar(name="SGLANG_HEALTH_CHECK_TIMEOUT", value="20"),
    )
