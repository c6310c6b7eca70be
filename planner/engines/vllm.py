"""vLLM: command line and environment of the pinned version.

Flags: `vllm serve --help` of 0.33.0. Removed ones (such as --swap-space) are argparse errors there.
"""

from __future__ import annotations

from planner.engines.request import CACHE_DIRECTORY, RENDEZVOUS_PORT, EngineRequest, shared_env
from planner.plan import EnvVar


def args(request: EngineRequest) -> tuple[str, ...]:
    """Arguments after `vllm serve` of the pod that answers HTTP."""
    layout = request.layout
    line = [
        request.weights.directory,
        f"--served-model-name={request.name}",
        "--host=0.0.0.0",
        f"--port={request.engine.port}",
        f"--tensor-parallel-size={layout.tensor}",
        f"--max-model-len={request.context_tokens}",
        f"--max-num-seqs={request.max_running}",
        f"--max-num-queued-reqs={request.queue_limit}",
        f"--gpu-memory-utilization={request.utilization:.2f}",
        # Without it SIGTERM aborts what runs.
        f"--shutdown-timeout={request.drain_seconds}",
        "--disable-access-log-for-endpoints=/health,/metrics",
    ]
    if layout.pipeline > 1:
        line.append(f"--pipeline-parallel-size={layout.pipeline}")
    if layout.expert > 1:
        line.append("--enable-expert-parallel")
    if request.quantization != "checkpoint" and request.card.checkpoint.format == "bf16":
        line.append("--quantization=fp8")
    if request.kv_cache == "fp8":
        line.append("--kv-cache-dtype=fp8")
    if request.kv_cache_bytes is not None:
        # Engines that start together on one card count each other's memory as their own (vllm-project/vllm#55827).
        line.append(f"--kv-cache-memory-bytes={request.kv_cache_bytes}")
    if request.step_tokens is not None:
        line.append(f"--max-num-batched-tokens={request.step_tokens}")
    line += _loading(request)
    reasoning = request.card.reasoning_parser.get("vllm")
    if reasoning:
        line.append(f"--reasoning-parser={reasoning}")
    tools = request.card.tool_parser.get("vllm")
    if tools:
        line += ["--enable-auto-tool-choice", f"--tool-call-parser={tools}"]
    if request.multi_node:
        line += [
            "--nnodes=$(LWS_GROUP_SIZE)",
            "--node-rank=$(LWS_WORKER_INDEX)",
            "--master-addr=$(LWS_LEADER_ADDRESS)",
            f"--master-port={RENDEZVOUS_PORT}",
            # Ranks that load at different speed must not be taken for dead.
            f"--distributed-timeout-seconds={max(600, 2 * request.startup_seconds)}",
        ]
    return tuple(line)


def worker_args(request: EngineRequest) -> tuple[str, ...]:
    """Arguments of the other pods of a group: the same, without an HTTP server."""
    return (*args(request), "--headless")


def _loading(request: EngineRequest) -> list[str]:
    if request.weights.medium == "s3_stream":
        return ["--load-format=runai_streamer", '--model-loader-extra-config={"concurrency":32}']
    # The default reads lazily, from every rank at once: on a network file system that multiplies the traffic.
    line = ["--safetensors-load-strategy=prefetch"]
    if request.layout.expert > 1:
        line.append("--enable-ep-weight-filter")
    return line


def env(request: EngineRequest) -> tuple[EnvVar, ...]:
    """Environment of every pod."""
    return (
        *shared_env(request),
        EnvVar(name="VLLM_API_KEY", secret=(request.api_key.name, request.api_key.key)),
        EnvVar(name="VLLM_HOST_IP", field_path="status.podIP"),
        EnvVar(name="VLLM_CACHE_ROOT", value=f"{CACHE_DIRECTORY}/vllm"),
        EnvVar(name="VLLM_ENGINE_READY_TIMEOUT_S", value=str(max(600, 2 * request.startup_seconds))),
        EnvVar(name="VLLM_NO_USAGE_STATS", value="1"),
    )
