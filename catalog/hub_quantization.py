"""`quantization_config` of a config.json to the catalog's number formats."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from catalog.hub_fields import Fields
from catalog.model_card import CheckpointFormat

_GROUP = 128
_HELP = "serve weights in bf16, FP8, AWQ (4 bits) or MXFP4"


def checkpoint_format(fields: Fields, config: Mapping[str, Any]) -> CheckpointFormat:
    """The number format of the files; one that the catalog does not know is a problem."""
    given = config.get("quantization_config")
    for nested in ("text_config", "llm_config", "language_config"):
        inner = config.get(nested)
        if given is None and isinstance(inner, Mapping):
            given = cast("Mapping[str, Any]", inner).get("quantization_config")
    if given is not None and not isinstance(given, Mapping):
        fields.problem("quantization_config", f"is {given!r}", "it must be an object with `quant_method`, or absent")
        return "bf16"
    if not given:
        return _unquantised(fields, config)
    how = cast("Mapping[str, Any]", given)
    method = str(how.get("quant_method", "")).lower()
    if method == "fp8":
        return _fp8(fields, how)
    if method == "mxfp4":
        return "mxfp4"
    if method in ("awq", "gptq"):
        return _integers(fields, how, how.get("bits", how.get("w_bit")), how.get("group_size", how.get("q_group_size")))
    if method == "fbgemm_fp8":
        fields.remark("fbgemm_fp8 is read as FP8; vLLM has deprecated it")
        return "fp8"
    if method == "compressed-tensors":
        return _compressed(fields, how)
    if method == "modelopt" and str(how.get("quant_algo", "")).upper() == "FP8":
        return "fp8"
    named = how.get("quant_algo") or method or "unnamed"
    fields.problem("quantization_config", f"number format `{named}` is not known here", _HELP)
    return "bf16"


def _unquantised(fields: Fields, config: Mapping[str, Any]) -> CheckpointFormat:
    kept = str(config.get("torch_dtype") or config.get("dtype") or "bfloat16")
    if kept not in ("bfloat16", "float16"):
        fields.remark(f"the files are {kept}; engines serve them in bf16, which the sizes here mean")
    return "bf16"


def _fp8(fields: Fields, how: Mapping[str, Any]) -> CheckpointFormat:
    block = how.get("weight_block_size")
    if block is None:
        return "fp8"
    if block != [_GROUP, _GROUP]:
        fields.problem("quantization_config", f"FP8 blocks of {block} are not known here", "blocks are [128, 128]")
    return "fp8_block128"


def _integers(fields: Fields, how: Mapping[str, Any], bits: object, group: object) -> CheckpointFormat:
    if bits != 4:
        fields.problem("quantization_config", f"{bits} bits by {how.get('quant_method')} are not known here", _HELP)
    if group != _GROUP:
        fields.remark(f"groups of {group}: the sizes here are those of groups of 128")
    return "awq_int4"


def _compressed(fields: Fields, how: Mapping[str, Any]) -> CheckpointFormat:
    groups = how.get("config_groups")
    found = [
        cast("Mapping[str, Any]", group).get("weights")
        for group in (cast("Mapping[str, Any]", groups).values() if isinstance(groups, Mapping) else ())
        if isinstance(group, Mapping)
    ]
    kinds = {
        (weights.get("num_bits"), weights.get("type"))
        for weights in (cast("Mapping[str, Any]", w) for w in found if isinstance(w, Mapping))
    }
    if kinds == {(8, "float")}:
        return "fp8"
    if kinds == {(4, "int")}:
        first = cast("Mapping[str, Any]", found[0])
        return _integers(fields, how, 4, first.get("group_size"))
    fields.problem("quantization_config", f"compressed-tensors of {sorted(map(str, kinds))} is not known here", _HELP)
    return "bf16"
