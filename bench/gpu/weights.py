"""How fast the ranks of a node take their weights from its memory into the GPUs, once files are in the page cache.

python3 -m bench.gpu.weights [--gigabytes 48] [--ranks 8] [--folder /dev/shm] [--out results.json]

Engines open each safetensors file in every rank, map a tensor, cut the rank's part out of it and copy that to the GPU,
one tensor after the other (vllm/model_executor/model_loader/weight_utils.py, `safetensors_weights_iterator`; SGLang's
is alike). Prefetch brings files into memory at the file system's rate; this is the rate at which they leave it.

Weights are DeepSeek-R1's routed experts in FP8 with a scale for each block of 128 x 128, 44 MB each, in files of 4 GB.
Ways: every rank cuts each expert by tensor parallelism (rows of gate and up, columns of down); every rank takes whole
experts (expert parallelism); every rank reads a file of its own that holds its part (shards).
Ranks share the GPUs of the machine in turn. Each row: seconds from the first tensor to the last rank's end; GB/s of
checkpoint (all ranks together, what one node gets through) and of one rank's own part.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import torch
import torch.multiprocessing as processes
from safetensors import safe_open
from safetensors.torch import save_file

Row = dict[str, object]

HIDDEN, INNER, BLOCK = 7168, 2048, 128
"""DeepSeek-R1's config.json: hidden_size, moe_intermediate_size, weight_block_size."""
_EXPERT_BYTES: Final = 3 * HIDDEN * INNER
_FILE_BYTES: Final = 4 * 10**9
WAYS = ("tensor", "expert", "shards")


def _expert(number: int, parts: int, rank: int) -> dict[str, torch.Tensor]:
    """One expert, or what one of `parts` ranks holds of it."""
    inner = INNER // parts
    shapes = {"gate_proj": (inner, HIDDEN), "up_proj": (inner, HIDDEN), "down_proj": (HIDDEN, inner)}
    made: dict[str, torch.Tensor] = {}
    for name, (rows, columns) in shapes.items():
        key = f"experts.{number}.{name}"
        content = torch.full((rows, columns), (number + rank) % 100, dtype=torch.uint8)
        made[f"{key}.weight"] = content.view(torch.float8_e4m3fn)
        made[f"{key}.weight_scale_inv"] = torch.ones((-(-rows // BLOCK), -(-columns // BLOCK)))
    return made


def write(folder: Path, experts: int, *, parts: int, ranks: Sequence[int]) -> list[Path]:
    """Files of `experts`, whole (`parts` 1) or cut for each of the ranks."""
    per_file = max(1, _FILE_BYTES * parts // _EXPERT_BYTES)
    made: list[Path] = []
    for rank in ranks:
        for first in range(0, experts, per_file):
            tensors: dict[str, torch.Tensor] = {}
            for number in range(first, min(experts, first + per_file)):
                tensors |= _expert(number, parts, rank)
            made.append(folder / f"rank-{rank}-{first:06d}.safetensors")
            save_file(tensors, made[-1])
    return made


def load(files: Sequence[Path], way: str, rank: int, ranks: int, experts: int, device: torch.device) -> int:
    """Bytes that one rank has put into its GPU."""
    held: dict[tuple[str, tuple[int, ...]], torch.Tensor] = {}
    own = range(rank * experts // ranks, (rank + 1) * experts // ranks)
    moved = 0
    for path in files:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                if way == "expert" and int(name.split(".")[1]) not in own:
                    continue
                whole = file.get_tensor(name)
                part = whole if way != "tensor" else _cut(whole, name, rank, ranks)
                target = held.setdefault(
                    (name.split(".", 2)[2], tuple(part.shape)), torch.empty(part.shape, dtype=part.dtype, device=device)
                )
                target.copy_(part)
                moved += part.nbytes
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return moved


def _cut(whole: torch.Tensor, name: str, rank: int, ranks: int) -> torch.Tensor:
    """A rank's part: columns of `down`, rows of the others; of their scales likewise."""
    dimension = 1 if ".down_proj." in name else 0
    length = whole.shape[dimension] // ranks
    return whole.narrow(dimension, rank * length, length)


def _rank(rank: int, way: str, ranks: int, experts: int, files: list[list[Path]], barrier: Any, answers: Any) -> None:
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
        torch.zeros(1, device=device)
    torch.set_num_threads(1)
    barrier.wait()
    begin = time.time()
    moved = load(files[rank if way == "shards" else 0], way, rank, ranks, experts, device)
    answers.put((rank, begin, time.time(), moved))


def measured(way: str, ranks: int, experts: int, files: list[list[Path]]) -> Row:
    """One row."""
    context = processes.get_context("spawn")
    barrier, answers = context.Barrier(ranks), context.Queue()
    told = (way, ranks, experts, files, barrier, answers)
    started = [context.Process(target=_rank, args=(rank, *told)) for rank in range(ranks)]
    for process in started:
        process.start()
    found = [answers.get() for _ in started]
    for process in started:
        process.join()
    seconds = max(end for _, _, end, _ in found) - min(begin for _, begin, _, _ in found)
    moved = [part for *_, part in found]
    return {
        "way": way,
        "ranks": ranks,
        "gpus": torch.cuda.device_count(),
        "seconds": round(seconds, 2),
        "checkpoint_gb_per_s": round(experts * _EXPERT_BYTES / seconds / 1e9, 2),
        "rank_gb_per_s": round(sum(moved) / len(moved) / seconds / 1e9, 2),
        "tensors_per_rank_and_s": round(experts * 6 / (ranks if way == "expert" else 1) / seconds),
    }


def rows(folder: Path, gigabytes: float, ranks: int) -> Iterator[Row]:
    """Each way twice: the first time also maps memory that nobody has mapped before."""
    experts = int(gigabytes * 1e9 / _EXPERT_BYTES) // ranks * ranks
    whole = write(folder, experts, parts=1, ranks=(0,))
    for way in WAYS[:2]:
        for _ in range(2):
            yield measured(way, ranks, experts, [whole])
    for path in whole:
        path.unlink()
    parted = [write(folder, experts, parts=ranks, ranks=(rank,)) for rank in range(ranks)]
    for _ in range(2):
        yield measured("shards", ranks, experts, parted)


def main() -> None:
    """Measures and prints; writes a document where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=48.0)
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"), help="in memory, as the page cache is")  # noqa: S108
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    found: list[Row] = []
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        for row in rows(Path(folder), chosen.gigabytes, chosen.ranks):
            found.append(row)
            print(row, flush=True)
    if chosen.out is not None:
        gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
        chosen.out.write_text(json.dumps({"gpu": gpu, "torch": torch.__version__, "rows": found}, indent=1))


if __name__ == "__main__":
    main()
