"""Runs beside vLLM, in an environment of its own: small models saved as shards of two ranks and read again, on CPUs.

A CPU does what a GPU would here: loading places tensors, and nothing is computed. Only that vLLM would pack weights for
a CPU's kernels is told to it otherwise. Started by `catalog.tools.saved_shards` with that environment's Python, so it
imports nothing of this project but its neighbor.
Usage: `python saved_shards_probe.py < models.json`, {architecture: {"config": class, "with": {field: value}}}; prints
for each how many tensors a rank has, which of them differ from what the checkpoint gave, and the files.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import json
import logging
import multiprocessing
import os
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

import engine_start_probe

RANKS = 2
LAYOUTS = ((RANKS, 1), (1, RANKS))
"""Tensor and pipeline degree: halves of each layer, then one half of the layers each."""


def write_checkpoint(architecture: str, asked: dict[str, Any], folder: Path) -> None:
    """A model of random weights, as the hub would have it."""
    transformers, torch = importlib.import_module("transformers"), importlib.import_module("torch")
    config = getattr(transformers, asked["config"])(**asked["with"])
    config.architectures = [architecture]
    getattr(transformers, architecture)(config).to(torch.bfloat16).save_pretrained(folder)


def pretend() -> None:
    """A platform without kernels of its own, in place of the GPU that vLLM would look for."""
    platforms: Any = importlib.import_module("vllm.platforms")
    cpu: Any = importlib.import_module("vllm.platforms.cpu").CpuPlatform

    class Plain(cpu):
        def is_cpu(self) -> bool:
            return False

    platforms._current_platform = Plain()


def state_of(
    folder: Path, load_format: str, rank: int, layout: tuple[int, int], save_to: Path | None = None
) -> dict[str, Any]:
    """All tensors of a rank as vLLM holds them; saved in vLLM's own way where asked."""
    config: Any = importlib.import_module("vllm.config")
    loading: Any = importlib.import_module("vllm.model_executor.model_loader")
    model = config.ModelConfig(
        model=str(folder), skip_tokenizer_init=True, dtype="bfloat16", enforce_eager=True, max_model_len=64
    )
    whole = config.VllmConfig(
        model_config=model,
        load_config=config.LoadConfig(load_format=load_format),
        parallel_config=config.ParallelConfig(
            tensor_parallel_size=layout[0],
            pipeline_parallel_size=layout[1],
            distributed_executor_backend="external_launcher",
            rank=rank,
        ),
        device_config=config.DeviceConfig(device="cpu"),
    )
    with config.set_current_vllm_config(whole):
        loaded = loading.get_model_loader(whole.load_config).load_model(vllm_config=whole, model_config=model)
        if save_to is not None:
            loading.ShardedStateLoader.save_model(loaded, str(save_to), pattern=None, max_size=None)
    return {name: tensor.clone() for name, tensor in loaded.state_dict().items()}


def run_rank(rank: int, port: int, layout: tuple[int, int], folders: dict[str, str], answers: Any) -> None:
    """One of the ranks, over all models."""
    os.environ.update(HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1", VLLM_CONFIGURE_LOGGING="0")
    logging.disable(logging.CRITICAL)
    engine_start_probe.stand_in_kernels()
    pretend()
    torch, distributed = importlib.import_module("torch"), importlib.import_module("vllm.distributed")
    config: Any = importlib.import_module("vllm.config")
    with config.set_current_vllm_config(config.VllmConfig()):
        distributed.init_distributed_environment(
            world_size=RANKS, rank=rank, distributed_init_method=f"tcp://127.0.0.1:{port}", local_rank=rank,
            backend="gloo",
        )  # fmt: skip
        distributed.initialize_model_parallel(*layout)
    found: dict[str, Any] = {}
    for architecture, folder in folders.items():
        shards = Path(folder) / f"shards-{layout[0]}x{layout[1]}"
        shards.mkdir(exist_ok=True)
        (shards / "config.json").write_bytes((Path(folder) / "config.json").read_bytes())
        first = state_of(Path(folder), "auto", rank, layout, save_to=shards)
        torch.distributed.barrier()
        again = state_of(shards, "sharded_state", rank, layout)
        names = first.keys() | again.keys()
        same = {name for name in first.keys() & again.keys() if torch.equal(first[name], again[name])}
        found[architecture] = {
            "tensors": len(first),
            "different": sorted(names - same),
            "files": sorted(path.name for path in shards.glob("*.safetensors")),
        }
    answers.put((rank, found))


def asked_of_ranks(layout: tuple[int, int], folders: dict[str, str]) -> dict[str, Any]:
    """What all ranks of a layout found, by model."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    ranks = [context.Process(target=run_rank, args=(rank, port, layout, folders, answers)) for rank in range(RANKS)]
    for one in ranks:
        one.start()
    found = dict(answers.get(timeout=900) for _ in ranks)
    for one in ranks:
        one.join()
    return {
        name: {
            "tensors": [found[rank][name]["tensors"] for rank in range(RANKS)],
            "different": sorted({tensor for rank in range(RANKS) for tensor in found[rank][name]["different"]}),
            "files": found[0][name]["files"],
        }
        for name in folders
    }


def main() -> int:
    """Answer for every model."""
    asked: dict[str, Any] = json.load(sys.stdin)
    with tempfile.TemporaryDirectory() as workspace, contextlib.redirect_stdout(io.StringIO()):
        folders = {architecture: f"{workspace}/{architecture}" for architecture in asked}
        for architecture, how in asked.items():
            write_checkpoint(architecture, how, Path(folders[architecture]))
        by_layout = {layout: asked_of_ranks(layout, folders) for layout in LAYOUTS}
    models = {
        name: {f"tensor {tensor}, pipeline {stages}": found[name] for (tensor, stages), found in by_layout.items()}
        for name in asked
    }
    sys.stdout.write("\n" + json.dumps({"version": importlib.metadata.version("vllm"), "models": models}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
