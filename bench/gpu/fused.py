"""The element-wise parts of a transformer layer as Triton kernels, fused as engines fuse them.

Each writes bf16, or for FP8 a row scaled to the largest value of the format together with its scale.
"""

# ruff: noqa: N803 - Triton's habit: compile-time constants in capitals.
# Triton reads annotations of kernel arguments itself: `tl.constexpr` must be a real object, not a string.
import torch
import triton
import triton.language as tl

_FP8_MAX = 448.0
"""Largest value of float8_e4m3fn."""

Rows = tuple[torch.Tensor, torch.Tensor | None]
"""Activations and, for FP8, one scale a row."""


@triton.jit
def _store_row(y, out, scale, row, columns, inside, width, FP8: tl.constexpr):
    if FP8:
        factor = tl.maximum(tl.max(tl.abs(y), 0) / 448.0, 1e-10)
        tl.store(scale + row, factor)
        tl.store(out + row * width + columns, (y / factor).to(tl.float8e4nv), mask=inside)
    else:
        tl.store(out + row * width + columns, y.to(tl.bfloat16), mask=inside)


@triton.jit
def _add_norm(x, residual, weight, out, scale, width, BLOCK: tl.constexpr, FP8: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    total = tl.load(x + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    total += tl.load(residual + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(residual + row * width + columns, total.to(tl.bfloat16), mask=inside)
    gain = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    y = total * tl.rsqrt(tl.sum(total * total, 0) / width + 1e-5) * gain
    _store_row(y, out, scale, row, columns, inside, width, FP8)


@triton.jit
def _silu_mul(both, out, scale, width, BLOCK: tl.constexpr, FP8: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    gate = tl.load(both + row * 2 * width + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(both + row * 2 * width + width + columns, mask=inside, other=0.0).to(tl.float32)
    y = gate * tl.sigmoid(gate) * up
    _store_row(y, out, scale, row, columns, inside, width, FP8)


@triton.jit
def _quantize(x, out, scale, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    y = tl.load(x + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    _store_row(y, out, scale, row, columns, inside, width, True)


@triton.jit
def _rope(
    qkv, query, key, value, cosine, sine, sequence, start, stride_batch, stride_token,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    position = start + row % sequence
    heads = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    lanes = tl.arange(0, HALF)
    inside = (heads < HEADS + 2 * KV_HEADS)[:, None] & (lanes >= 0)[None, :]
    source = qkv + row * (HEADS + 2 * KV_HEADS) * 2 * HALF + heads[:, None] * 2 * HALF + lanes[None, :]
    low = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    high = tl.load(source + HALF, mask=inside, other=0.0).to(tl.float32)
    c = tl.load(cosine + position * HALF + lanes)[None, :]
    s = tl.load(sine + position * HALF + lanes)[None, :]
    turned = (heads < HEADS + KV_HEADS)[:, None]
    new_low = tl.where(turned, low * c - high * s, low).to(tl.bfloat16)
    new_high = tl.where(turned, high * c + low * s, high).to(tl.bfloat16)
    is_query = (heads < HEADS)[:, None] & inside
    to_query = query + row * HEADS * 2 * HALF + heads[:, None] * 2 * HALF + lanes[None, :]
    tl.store(to_query, new_low, mask=is_query)
    tl.store(to_query + HALF, new_high, mask=is_query)
    cell = (row // sequence) * stride_batch + position * stride_token
    is_key = (heads >= HEADS)[:, None] & turned & inside
    to_key = key + cell + (heads - HEADS)[:, None] * 2 * HALF + lanes[None, :]
    tl.store(to_key, new_low, mask=is_key)
    tl.store(to_key + HALF, new_high, mask=is_key)
    is_value = (heads >= HEADS + KV_HEADS)[:, None] & inside
    to_value = value + cell + (heads - HEADS - KV_HEADS)[:, None] * 2 * HALF + lanes[None, :]
    tl.store(to_value, new_low, mask=is_value)
    tl.store(to_value + HALF, new_high, mask=is_value)


@triton.jit
def _read(source, sink, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64)
    part = tl.load(source + place * BLOCK + tl.arange(0, BLOCK))
    tl.store(sink + place, tl.sum(part, 0))


def _outputs(rows: int, width: int, fp8: bool) -> tuple[torch.Tensor, torch.Tensor]:
    out = torch.empty(rows, width, dtype=torch.float8_e4m3fn if fp8 else torch.bfloat16, device="cuda")
    scale = torch.empty(rows if fp8 else 1, 1, dtype=torch.float32, device="cuda")
    return out, scale


def _warps(block: int) -> int:
    return max(1, min(32, block // 256))


def add_norm(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, fp8: bool) -> Rows:
    """RMS norm of `x + residual`; the sum stays in `residual`."""
    rows, width = x.shape
    out, scale = _outputs(rows, width, fp8)
    block = triton.next_power_of_2(width)
    _add_norm[(rows,)](x, residual, weight, out, scale, width, BLOCK=block, FP8=fp8, num_warps=_warps(block))
    return out, scale if fp8 else None


def silu_mul(both: torch.Tensor, fp8: bool) -> Rows:
    """silu(gate) x up of rows that hold gate and up side by side."""
    rows, width = both.shape[0], both.shape[1] // 2
    out, scale = _outputs(rows, width, fp8)
    block = triton.next_power_of_2(width) if fp8 else 1024  # the scale needs a whole row in one program
    grid = (rows, triton.cdiv(width, block))
    _silu_mul[grid](both, out, scale, width, BLOCK=block, FP8=fp8, num_warps=_warps(block))
    return out, scale if fp8 else None


def quantize(x: torch.Tensor) -> Rows:
    """Rows of bf16 as FP8 with a scale each."""
    rows, width = x.shape
    out, scale = _outputs(rows, width, True)
    block = triton.next_power_of_2(width)
    _quantize[(rows,)](x, out, scale, width, BLOCK=block, num_warps=_warps(block))
    return out, scale


def rope(
    qkv: torch.Tensor, key: torch.Tensor, value: torch.Tensor, tables: tuple[torch.Tensor, torch.Tensor],
    *, heads: int, sequence: int, start: int,
) -> torch.Tensor:  # fmt: skip
    """Turns queries and keys by their position, writes keys and values into one layer's cache, returns the queries.

    Rows are `sequence` tokens of each batch entry, the first of them at position `start`; the cache is
    [batch, tokens, KV heads, head size].
    """
    _, _, kv_heads, head = key.shape
    query = torch.empty(qkv.shape[0], heads * head, dtype=torch.bfloat16, device="cuda")
    block = 8
    grid = (qkv.shape[0], triton.cdiv(heads + 2 * kv_heads, block))
    _rope[grid](
        qkv, query, key, value, *tables, sequence, start, key.stride(0), key.stride(1),
        HEADS=heads, KV_HEADS=kv_heads, HALF=head // 2, BLOCK=block, num_warps=4,
    )  # fmt: skip
    return query


READ_BLOCK = 8192
"""Elements that one program of `read` sums up."""


def read(source: torch.Tensor, sink: torch.Tensor) -> None:
    """Reads int32 `source` once, whole blocks only, and stores one sum a block in `sink`."""
    _read[(source.numel() // READ_BLOCK,)](source, sink, BLOCK=READ_BLOCK, num_warps=8)
