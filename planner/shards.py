"""What each rank holds, kept on the cache: later starts read that in place of the whole checkpoint.

SGLang's `presharded` loader writes it at the first start and tells another layout, quantisation or model apart by a
digest of its own (0.5.23, sglang/srt/model_loader/loader.py). vLLM's `sharded_state` is saved by a run of its own: an
init container on the pod's own GPUs (components/scripts/save_shards.py). Any engine reads the whole checkpoint once a
node as it is, with prefetch: the gain is that each of several nodes reads its ranks' part alone.
"""

from __future__ import annotations

from catalog.assumptions import assumed
from planner.cache import CLIENT_LIMIT, SERVER_LIMIT, Crowd, into_gpus
from planner.drafts import Draft
from planner.engines.checks import options_of
from planner.patience import limit_seconds
from planner.plan import LoadPlan, ShardsPlan
from planner.problems import Findings
from settings.pools import ExistingPool

WORTH_SECONDS = 10
"""A start that is faster by less is not worth a second copy of the checkpoint."""

_KEEP = "leave it at `checkpoint`"


def plan_shards(sketch: Draft, medium: str, load: LoadPlan, everyone: Crowd, findings: Findings) -> ShardsPlan | None:
    """Shards of a model that asks for them; None (and a problem where it does) where they cannot be."""
    if options_of(sketch.model).load == "checkpoint":
        return None
    reason = _unfit(sketch, medium)
    if reason is not None:
        findings.problem((*sketch.path, "engine_options", "load"), *reason)
        return None
    found = _shards(sketch, load, everyone)
    saved = load.seconds - found.seconds
    if saved < WORTH_SECONDS:
        how = "faster" if saved > 0 else "slower"
        findings.remark(
            f"models[{sketch.index}]",
            f"`engine_options.load: sharded` makes a start {abs(saved):.0f} s {how}, for "
            f"{found.gigabytes:.0f} GB more on the cache and {_longer(load, found):.0f} s more at the first one: "
            "`checkpoint` is better here",
        )
    return found


def _unfit(sketch: Draft, medium: str) -> tuple[str, str] | None:
    if medium == "s3_stream":
        return "ranks of all nodes write shards to one file system, and there is none in the pool's zone", (
            f"use `cache: {{kind: fsx_lustre, ...}}` there, or {_KEEP}"
        )
    if medium == "volume":
        what = "who writes shards keeps other replicas away by a lock of the file system, and not every claim has one"
        lustre = "" if isinstance(sketch.facts.pool, ExistingPool) else "use `cache: {kind: fsx_lustre, ...}`, or "
        return what, lustre + _KEEP
    return _unfit_vllm(sketch) if sketch.model.engine == "vllm" else _unfit_sglang(sketch)


def _unfit_sglang(sketch: Draft) -> tuple[str, str] | None:
    if sketch.fit.layout.nodes == 1:
        what = "a replica on one node reads its checkpoint once as it is: shards would gain nothing and lie there twice"
        return what, f"{_KEEP}, or use a layout over several nodes"
    model = sketch.model
    together = max([model.replicas.min, *(floor.replicas for floor in model.autoscaling.floors)])
    if together > 1:
        what = f"{together} replicas may start together, and the first start writes the shards: they would overwrite"
        return f"{what} each other's", f"{_KEEP}, or begin with `replicas.min: 1` and no higher floor"
    return None


def _unfit_vllm(sketch: Draft) -> tuple[str, str] | None:
    """What vLLM 0.33.0 cannot save, or cannot read as it was.

    It saves tensors as kernels hold them and reads them into those that a checkpoint is read into, after which they
    are made ready for kernels once more (vllm/model_executor/model_loader/base_loader.py, sharded_state_loader.py).
    That changes nothing where making ready changes nothing: dense layers in 16 bit (UnquantizedLinearMethod,
    vllm/model_executor/layers/linear.py; tried by catalog/tools/saved_shards.py). Quantised layers fail or differ
    (vllm-project/vllm#41174), and FlashInfer's kernels would have weights of experts rearranged twice (swap_w13_to_w31,
    layers/fused_moe/oracle/unquantized.py).
    """
    layout, model, card, options = sketch.fit.layout, sketch.model, sketch.card, options_of(sketch.model)
    if sketch.runtime == "ray_service":
        return "Ray Serve starts an engine's ranks itself: nothing can write their shards before", (
            f"use runtime deployment or leader_worker_set, or {_KEEP}"
        )
    keep = f"{_KEEP}; over several nodes engine sglang writes shards of these, too"
    if card.checkpoint.format != "bf16" or model.quantization != "checkpoint":
        numbers = card.checkpoint.format if card.checkpoint.format != "bf16" else model.quantization
        what = f"vLLM saves {numbers} weights as its kernels hold them and reads them as the hub has them"
        return f"{what}: they would not load, or be others", keep
    if card.moe is not None:
        what = "some of vLLM's kernels rearrange the weights of experts at every load, saved ones a second time"
        return f"{what}: answers could be wrong, and nothing would say so", keep
    if card.mla is not None:
        return (
            "vLLM takes weights of latent attention apart at load, and saved ones have failed (its issue 25063)",
            keep,
        )
    if options.lora is not None:
        return "vLLM saves no shards of a model with adapters (it pads and renames its weights)", (
            f"{_KEEP}, or merge the adapter into its model"
        )
    if options.speculation is not None and options.speculation.kind != "ngram":
        return "vLLM saves the model alone, and would look for shards of what proposes tokens, too", (
            f"{_KEEP}, or use `speculation: {{kind: ngram, ...}}`"
        )
    if layout.gpus == 1:
        return "one GPU holds the whole checkpoint: its shard is the same again", f"{_KEEP}, or spread it over GPUs"
    return None


def _shards(sketch: Draft, load: LoadPlan, everyone: Crowd) -> ShardsPlan:
    nodes, whole = sketch.fit.layout.nodes, sketch.card.checkpoint.gigabytes
    beside = load.gigabytes_per_node - whole
    part = whole / nodes + beside
    client, server = load.limits_mb_per_s[CLIENT_LIMIT], load.limits_mb_per_s[SERVER_LIMIT]
    # Readers of more than this part are given as much of it meanwhile: its own other nodes too.
    read = max(part * 1000 / client, everyone.served_gigabytes(part) * 1000 / server)
    copy = part * 1000 / assumed(into_gpus(sketch.fit.layout.gpus_per_node, shards=True))
    write = max(whole * 1000 / server, whole / nodes * 1000 / client)
    before, limit = 0.0, 0
    if sketch.model.engine == "vllm":
        before = load.seconds + assumed("compile_seconds_base")
        # The first pod reads for their checksums what the other nodes have written; its own are in its memory.
        write += whole * (1 - 1 / nodes) * 1000 / client
        # Twice its own time, after as long a wait for another replica that is killed in the end.
        limit = limit_seconds(4 * (before + write))
    return ShardsPlan(
        gigabytes=whole,
        gigabytes_per_node=round(part, 1),
        read_seconds=round(read, 1),
        copy_seconds=round(copy, 1),
        seconds=round(read + copy if before else max(read, copy), 1),
        write_seconds=round(write, 1),
        before_seconds=round(before, 1),
        limit_seconds=limit,
    )


def _longer(load: LoadPlan, shards: ShardsPlan) -> float:
    """Seconds that the first start takes longer than one without shards."""
    return shards.init_seconds + shards.seconds - load.seconds if shards.init_seconds else shards.write_seconds


def load_words(sketch: Draft, medium: str, load: LoadPlan, shards: ShardsPlan | None, everyone: Crowd) -> str:
    """The way of loading that was chosen, and what another would save."""
    if medium == "s3_stream":
        return (
            "runai_streamer: each node streams the checkpoint from S3 into its GPUs, with no copy on a disk; pods wait "
            "until the revision is whole in the bucket"
        )
    if shards is not None:
        return _shards_words(load, shards)
    words = "prefetch: ranks read the checkpoint into the node's memory once together, not once each"
    if _unfit(sketch, medium) is not None:
        return words
    saved = _shards(sketch, load, everyone)
    if load.seconds - saved.seconds < WORTH_SECONDS:
        return words
    return (
        f"{words}. `engine_options.load: sharded` would read {saved.gigabytes_per_node:.1f} GB a node in place of "
        f"{load.gigabytes_per_node:.1f} from the second start on: {saved.seconds:.0f} s in place of "
        f"{load.seconds:.0f} s, for {saved.gigabytes:.0f} GB more on the cache and {_longer(load, saved):.0f} s more "
        "at the first start"
    )


def _shards_words(load: LoadPlan, shards: ShardsPlan) -> str:
    first = f"the first start reads {load.gigabytes_per_node:.1f} GB a node and writes what ranks hold"
    if shards.init_seconds:
        first += ", in an init container on the same GPUs"
    words = (
        f"sharded: {first} ({_longer(load, shards):.0f} s more); later ones read {shards.gigabytes_per_node:.1f} GB a "
        f"node and have it after {shards.seconds:.0f} s in place of {load.seconds:.0f} s"
    )
    if load.seconds - shards.seconds >= WORTH_SECONDS:
        return words
    return f"{words}. It pays where a replica spans nodes: on one, prefetch reads no more"
