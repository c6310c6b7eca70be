"""What a process holds on a GPU beside its tensors: driver, context, libraries, NCCL, graphs, a sampler's passes.

    python3 -m bench.gpu.memory --out memory.json                                one GPU
    torchrun --nproc-per-node 2 -m bench.gpu.memory --out memory.json            several: NCCL as well

Needs PyTorch and nothing else. The layers are those of an 8B in plain PyTorch, no engine's; the figures go to
catalog/assumptions.yaml with machine and date.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from datetime import date
from pathlib import Path

import torch
import torch.distributed as dist

_MIB = 2**20
_HIDDEN, _WIDE, _HEADS, _LAYERS, _VOCAB = 4096, 14336, 32, 32, 128256
_GRAPH_SIZES = (1, 2, 4, *range(8, 257, 8))
"""Batch sizes that vLLM captures up to 256."""


def used_mib(index: int) -> int:
    """Memory in use as the driver sees it; asked without touching CUDA in this process."""
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", f"--id={index}"]
    return int(subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0])


def outside_mib(index: int) -> float:
    """In use beyond what PyTorch's allocator holds."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    return used_mib(index) - torch.cuda.memory_reserved() / _MIB


class Layers:
    """A stack of decoder layers whose kernels are those of a decode step."""

    def __init__(self) -> None:
        def weight(rows: int, columns: int) -> torch.Tensor:
            return torch.randn(rows, columns, device="cuda", dtype=torch.bfloat16) * 0.01

        self.parts = [
            (
                weight(_HIDDEN, 3 * _HIDDEN),
                weight(_HIDDEN, _HIDDEN),
                weight(_HIDDEN, 2 * _WIDE // 8),
                weight(_WIDE // 8, _HIDDEN),
            )
            for _ in range(_LAYERS)
        ]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """One step; the feed-forward is an eighth wide, which changes no number of kernels."""
        rows = x.shape[0]
        for qkv, out, up, down in self.parts:
            q, k, v = (torch.rms_norm(x, (_HIDDEN,)) @ qkv).view(rows, 3, _HEADS, -1).unbind(1)
            seen = torch.nn.functional.scaled_dot_product_attention(q[:, :, None], k[:, :, None], v[:, :, None])
            x = x + seen.reshape(rows, _HIDDEN) @ out
            gate, value = (torch.rms_norm(x, (_HIDDEN,)) @ up).chunk(2, dim=-1)
            x = x + (torch.nn.functional.silu(gate) * value) @ down
        return x


def graphs_mib(index: int) -> dict[str, float]:
    """What capturing all batch sizes in one pool takes, the static inputs left out."""
    layers = Layers()
    inputs = torch.zeros(max(_GRAPH_SIZES), _HIDDEN, device="cuda", dtype=torch.bfloat16)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        layers(inputs)
    torch.cuda.current_stream().wait_stream(side)
    before = used_mib(index)
    pool, kept = torch.cuda.graph_pool_handle(), []
    for size in sorted(_GRAPH_SIZES, reverse=True):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            layers(inputs[:size])
        kept.append(graph)
    torch.cuda.synchronize()
    return {"graphs": len(kept), "layers": _LAYERS, "mib": used_mib(index) - before}


def sampling_bytes_per_logit(rows: int = 256) -> float:
    """Peak of temperature, top-p and a draw over bf16 logits, in bytes a logit, the logits themselves included."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    base = torch.cuda.memory_allocated()
    logits = torch.randn(rows, _VOCAB, device="cuda", dtype=torch.bfloat16)
    scaled = logits.float().div_(0.7)
    ordered, places = scaled.sort(dim=-1)
    mass = ordered.softmax(dim=-1).cumsum(dim=-1)
    ordered.masked_fill_(mass <= 1 - 0.9, float("-inf"))
    kept = scaled.scatter_(-1, places, ordered)
    kept.softmax(dim=-1).multinomial(1)
    return (torch.cuda.max_memory_allocated() - base) / (rows * _VOCAB)


def main() -> None:
    """Measure in the order in which an engine takes the memory."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    rank, world = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    idle = used_mib(rank)
    torch.cuda.set_device(rank)
    torch.zeros(1, device="cuda")
    found: dict[str, object] = {
        "date": date.today().isoformat(),
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
    }
    found["total_mib"] = torch.cuda.get_device_properties(rank).total_memory // _MIB
    found["idle_mib"] = idle
    found["context_mib"] = outside_mib(rank) - idle
    a = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16)
    (a @ a).softmax(dim=-1)
    narrow = a.to(torch.float8_e4m3fn)
    one = torch.ones((), device="cuda")
    torch._scaled_mm(narrow, narrow.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16)
    head = torch.randn(1, 32, 4096, 128, device="cuda", dtype=torch.bfloat16)
    torch.nn.functional.scaled_dot_product_attention(head, head, head, is_causal=True)
    del a, narrow, head
    found["libraries_mib"] = outside_mib(rank) - idle - float(str(found["context_mib"]))
    if world > 1:
        before = outside_mib(rank)
        dist.init_process_group("nccl", device_id=torch.device("cuda", rank))
        x = torch.ones(64 * _MIB, device="cuda", dtype=torch.bfloat16)
        for _ in range(3):
            dist.all_reduce(x)
        found["nccl_ranks"] = world
        found["nccl_all_reduce_mib"] = outside_mib(rank) - before
        dist.all_gather_into_tensor(torch.empty(world * 1024, device="cuda"), torch.ones(1024, device="cuda"))
        second = dist.new_group(list(range(world)))
        dist.all_reduce(x, group=second)
        del x
        found["nccl_with_second_group_mib"] = outside_mib(rank) - before
    found["sampling_bytes_per_logit"] = round(sampling_bytes_per_logit(), 2)
    found["cuda_graphs"] = graphs_mib(rank)
    print(rank, json.dumps(found), flush=True)
    if rank == 0:
        out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
