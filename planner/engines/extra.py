"""`extra_args`: what the pinned version takes, less what the planner decides and what would break its promises."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from catalog.engine_flags import Flag, ParserData
from planner.plan import LayoutPlan
from settings.errors import Path

Told = tuple[Path, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Harm:
    """Options that parse, and undo what the plan says."""

    why: str
    help: str
    options: frozenset[str]
    """By their name inside the engine."""


_LEAVE_OUT = "leave it out"
_HARMS = (
    _Harm(
        why="would put ranks where the plan has no GPU, memory or pod for them",
        help="say `layout` at the model",
        options=frozenset(
            {
                "data_parallel_rank", "data_parallel_start_rank", "data_parallel_size_local", "data_parallel_address",
                "data_parallel_rpc_port", "data_parallel_backend", "data_parallel_hybrid_lb",
                "data_parallel_external_lb", "data_parallel_multi_port_external_lb", "data_parallel_supervisor_port",
                "decode_context_parallel_size", "prefill_context_parallel_size", "device_ids", "enable_elastic_ep",
                "elastic_ep_max_dp_size", "worker_cls", "base_gpu_id", "gpu_id_step", "attn_cp_size", "moe_dp_size",
                "dwdp_size", "dcp_size", "elastic_ep_backend", "max_ep_size", "use_ray", "device", "numa_node",
            }
        ),
    ),
    _Harm(
        why="would hide the server from probes, router and monitors, which ask plain HTTP on the planned port",
        help="leave it out: TLS ends before the engine",
        options=frozenset(
            {
                "ssl_keyfile", "ssl_certfile", "ssl_ca_certs", "ssl_cert_reqs", "ssl_ciphers", "enable_ssl_refresh",
                "uds", "grpc", "grpc_port", "grpc_mode", "smg_grpc_mode", "sidecar", "fastapi_root_path", "root_path",
            }
        ),
    ),
    _Harm(
        why="would blind scaling, alerts and dashboards, which count each request once in the engine's metrics",
        help=_LEAVE_OUT,
        options=frozenset({"disable_log_stats", "enable_metrics_for_all_schedulers"}),
    ),
    _Harm(
        why="is a secret, which would stand in the clear in the stack file, its state and every listing of pods",
        help="leave it out: weights come from the cache, and `api_key` guards the server",
        options=frozenset({"hf_token", "admin_api_key", "ssl_keyfile_password"}),
    ),
    _Harm(
        why="changes what GPU memory was planned for",
        help="say `engine_options.memory_share`, `kv_offload` or `layout`",
        options=frozenset(
            {
                "num_gpu_blocks_override", "max_total_tokens", "cpu_offload_gb", "offload_backend",
                "offload_group_size", "offload_num_in_group",
            }
        ),
    ),
    _Harm(
        why="would take other files than the staged revision, and pods do not reach the hub",
        help="say `revision` at the model",
        options=frozenset({"revision", "code_revision", "tokenizer_revision", "download_dir", "hf_config_path"}),
    ),
    _Harm(
        why="would make another server of it than the one for chat that is probed, routed to and scaled",
        help=_LEAVE_OUT,
        options=frozenset(
            {
                "runner", "convert", "is_embedding", "skip_tokenizer_init", "tokens_only", "encoder_only",
                "mm_encoder_only", "enable_pdmux", "skip_server_warmup", "prefill_only_disable_kv_cache",
            }
        ),
    ),
    _Harm(
        why="is part of speculation, whose memory is planned",
        help="say it at `engine_options.speculation`",
        options=frozenset(
            {
                "spec_method", "spec_model", "spec_tokens", "speculative_num_steps", "speculative_eagle_topk",
                "speculative_num_draft_tokens", "speculative_draft_model_path", "speculative_draft_model_revision",
            }
        ),
    ),
)  # fmt: skip

_NEED_EXPERTS = frozenset(
    {"enable_eplb", "eplb_config", "ep_num_redundant_experts", "enable_two_batch_overlap", "enable_dbo"}
)
_OBJECTS = frozenset({"hf_overrides", "json_model_override_args"})
"""JSON objects that the parsers take for plain text; the engines fail on anything else after it."""
_WIDE_TYPES = frozenset({"float", "float32"})


def extra_problems(extra: Iterable[str], data: ParserData, owned: Mapping[str, str]) -> Iterator[Told]:
    """What stands against further options: (path below `engine_options`, message, help).

    Args:
        extra: as the stack file has them.
        data: the pinned version's parser.
        owned: what the planner sets, by the name inside the engine, and the key that says it.
    """
    seen: set[str] = set()
    for index, text in enumerate(extra):
        at: Path = ("extra_args", index)
        name, _, value = text.partition("=")
        flag = data.flag(name)
        if flag is None:
            refusal = data.unknown(name)
            base, dot, key = name.partition(".")
            near = data.flag(base) if dot else data.nearest(name)
            written = f"""write `{base}={{"{key}": {value or "value"}}}`""" if dot and near else refusal.help or ""
            # A flag of the other engine, whose name has nothing in common with this one's.
            said = owned.get(name.removeprefix("--").replace("-", "_")) if near is None else None
            yield at, refusal.why, f"say it at `{said}`" if said else _with_key(written, near, owned)
            continue
        if flag.dest in owned:
            key = owned[flag.dest]
            yield at, f"`{name}` is set by the planner", f"say it at `{key}`" if key else _LEAVE_OUT
        elif harm := next((harm for harm in _HARMS if flag.dest in harm.options), None):
            yield at, f"`{name}` {harm.why}", harm.help
        elif flag.dest in seen:
            yield at, f"`{name}` is given twice", "keep one"
        elif refusals := data.check([text]):
            usage = f"`{data.engine} {data.version}` takes `{_usage(flag)}`"
            yield at, refusals[0].why, refusals[0].help or usage
        else:
            yield from ((at, why, help_text) for why, help_text in _value(name, value, flag))
        seen.add(flag.dest)


def spread_problems(extra: Iterable[str], data: ParserData, layout: LayoutPlan) -> Iterator[Told]:
    """Options about experts that are spread, where they are not."""
    if layout.expert > 1:
        return
    for index, text in enumerate(extra):
        name = text.partition("=")[0]
        flag = data.flag(name)
        if flag is not None and flag.dest in _NEED_EXPERTS and not data.check([text]):
            yield (
                ("extra_args", index),
                f"`{name}` needs experts spread over the GPUs",
                "set `layout.expert`, or leave it out",
            )


def _with_key(help_text: str, near: Flag | None, owned: Mapping[str, str]) -> str:
    """A suggestion that would be refused next is no suggestion: name the key at once."""
    if near is None or not owned.get(near.dest):
        return help_text
    return f"if `{near.names[0]}` is meant, say it at `{owned[near.dest]}`"


def _value(name: str, value: str, flag: Flag) -> Iterator[tuple[str, str]]:
    if flag.dest in _OBJECTS and not _is_object(value):
        yield f"`{name}` takes a JSON object", f"""write `{name}={{"key": value}}`"""
    if flag.dest == "dtype" and value in _WIDE_TYPES:
        yield "weights and cache are planned in the checkpoint's format, half as wide", _LEAVE_OUT
    if flag.dest in {"tokenizer", "tokenizer_path"} and not value.startswith("/"):
        yield "pods do not reach the hub", "name a folder on the cache, or leave it out"
    if flag.type in {"int", "count"} and value.startswith("-") and value != "-1":
        yield f"`{value}` is below what any option takes (-1 is no limit, where there may be none)", "give 0 or more"
    if flag.dest == "optimization_level" and value not in {"0", "1", "2", "3"}:
        yield f"`{value}` is no level", "give 0 to 3"


def _is_object(value: str) -> bool:
    try:
        return isinstance(json.loads(value), dict)
    except ValueError:
        return False


def _usage(flag: Flag) -> str:
    name = next((one for one in flag.names if one.startswith("--")), flag.names[0])
    return name if flag.takes != "value" else f"{name}=<{flag.type}>"
