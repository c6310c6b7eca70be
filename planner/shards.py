"""What each rank holds, kept on the cache: later starts read that in place of the whole checkpoint.

SGLang's `presharded` loader writes it at the first start and tells another layout, quantisation or model apart by a
digest of its own (0.5.23, sglang/srt/model_loader/loader.py). A node's own reading is once the checkpoint with
prefetch, too: the gain is that each of several nodes reads its ranks' part alone.
"""

from __future__ import annotations

from planner.cache import CLIENT_LIMIT, SERVER_LIMIT, Crowd
from planner.drafts import Draft
from planner.engines.checks import options_of
from planner.plan import LoadPlan, ShardsPlan
from planner.problems import Findings

WORTH_SECONDS = 10
"""A start that is faster by less is not worth a second copy of the checkpoint."""


def plan_shards(sketch: Draft, medium: str, load: LoadPlan, everyone: Crowd, findings: Findings) -> ShardsPlan | None:
    """Shards of a model that asks for them; None (and a problem where it does) where they cannot be."""
    if options_of(sketch.model).load == "checkpoint":
        return None
    reason = _unfit(sketch, medium)
    if reason is not None:
        findings.problem((*sketch.path, "engine_options", "load"), *reason)
        return None
    return _shards(sketch, load, everyone)


def _unfit(sketch: Draft, medium: str) -> tuple[str, str] | None:
    layout, model = sketch.fit.layout, sketch.model
    keep = "leave it at `checkpoint`"
    if model.engine == "vllm":
        what = "vLLM's shards are saved by a run of their own on all GPUs of a replica, which nothing here starts"
        return what, f"{keep}: prefetch reads the checkpoint once a node; or take engine sglang, which writes its own"
    if medium != "lustre":
        return "ranks of all nodes write shards to one file system, and there is none", (
            f"use `cache: {{kind: fsx_lustre, ...}}` in the pool's zone, or {keep}"
        )
    if layout.nodes == 1:
        what = "a replica on one node reads its checkpoint once as it is: shards would gain nothing and lie there twice"
        return what, f"{keep}, or use a layout over several nodes"
    together = max([model.replicas.min, *(floor.replicas for floor in model.autoscaling.floors)])
    if together > 1:
        what = f"{together} replicas may start together, and the first start writes the shards: they would overwrite"
        return f"{what} each other's", f"{keep}, or begin with `replicas.min: 1` and no higher floor"
    return None


def _shards(sketch: Draft, load: LoadPlan, everyone: Crowd) -> ShardsPlan:
    nodes, whole = sketch.fit.layout.nodes, sketch.card.checkpoint.gigabytes
    beside = load.gigabytes_per_node - whole
    part = whole / nodes + beside
    client, server = load.limits_mb_per_s[CLIENT_LIMIT], load.limits_mb_per_s[SERVER_LIMIT]
    # Readers of more than this part are given as much of it meanwhile: its own other nodes too.
    seconds = max(part * 1000 / client, everyone.served_gigabytes(part) * 1000 / server)
    return ShardsPlan(
        gigabytes=whole,
        gigabytes_per_node=round(part, 1),
        seconds=round(seconds, 1),
        write_seconds=round(max(whole * 1000 / server, whole / nodes * 1000 / client), 1),
    )


def load_words(sketch: Draft, medium: str, load: LoadPlan, shards: ShardsPlan | None, everyone: Crowd) -> str:
    """The way of loading that was chosen, and what another would save."""
    if medium == "s3_stream":
        return (
            "runai_streamer: each node streams the checkpoint from S3 into its GPUs, with no copy on a disk; pods wait "
            "until the revision is whole in the bucket"
        )
    if shards is not None:
        return (
            f"sharded: the first start reads {load.gigabytes_per_node:.1f} GB a node and writes what ranks hold "
            f"({shards.write_seconds:.0f} s more); later ones read {shards.gigabytes_per_node:.1f} GB a node and have "
            f"it after {shards.seconds:.0f} s in place of {load.seconds:.0f} s"
        )
    words = "prefetch: ranks read the checkpoint into the node's memory once together, not once each"
    if medium != "lustre" or sketch.model.engine != "sglang" or _unfit(sketch, medium) is not None:
        return words
    saved = _shards(sketch, load, everyone)
    if load.seconds - saved.seconds < WORTH_SECONDS:
        return words
    return (
        f"{words}. `engine_options.load: sharded` would read {saved.gigabytes_per_node:.1f} GB a node in place of "
        f"{load.gigabytes_per_node:.1f} from the second start on: {saved.seconds:.0f} s in place of "
        f"{load.seconds:.0f} s, for {saved.gigabytes:.0f} GB more on the cache and {saved.write_seconds:.0f} s more "
        "at the first start"
    )
