"""`model-card`: a card for the catalog or the stack file from a model's config.json."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, cast

import yaml

from catalog.hub_config import Origin, Reading, read_config
from catalog.model_card import ModelCard
from catalog.shapes import read_gb, resident_gb
from ops.console import OK, USAGE, err, out, print_json
from ops.errors import UsageError

_INDEX = "model.safetensors.index.json"
_MODELOPT = "hf_quant_config.json"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_LARGEST_BYTES = 64 * 2**20
"""An index file names every tensor: that of a model of 61 layers and 256 experts has 9 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CardOptions:
    """What the command line asked for."""

    name: str | None = None
    license: str | None = None
    gated: bool = False
    revision: str | None = None
    inline: bool = False
    as_of: date | None = None


def show_model_card(path: Path, options: CardOptions, *, as_json: bool) -> int:
    """Print the card of a config.json, or of a folder with one; every problem at once where there is none."""
    config, total_size = read_files(path)
    name = _given_name(options.name) or _name(config, path)
    reading = read_config(
        config,
        Origin(
            name=name,
            as_of=options.as_of or datetime.now(tz=UTC).date(),
            license=options.license or "see the model's page",
            gated=options.gated,
            revision=options.revision,
            total_size=total_size,
        ),
    )
    if as_json:
        print_json(_document(reading))
        return OK if reading.card else USAGE
    for remark in reading.remarks:
        err.print(f"note: {remark}", markup=False, soft_wrap=True)
    if reading.card is None:
        count = len(reading.problems)
        err.print(f"error: {path} has {count} problem{'s' if count > 1 else ''}", markup=False, soft_wrap=True)
        for problem in reading.problems:
            err.print(f"  {problem.field}: {problem.message}\n    help: {problem.help}", markup=False, soft_wrap=True)
        return USAGE
    made: Mapping[str, Any] = (
        {"model": inline_of(reading.card)} if options.inline else {reading.card.name: entry_of(reading.card)}
    )
    out.print(yaml.safe_dump(made, sort_keys=False, width=116).rstrip(), markup=False, soft_wrap=True)
    return OK


def _document(reading: Reading) -> dict[str, Any]:
    card = reading.card
    return {
        "card": card and {card.name: entry_of(card)},
        "inline": card and inline_of(card),
        "resident_gb": card and round(resident_gb(card), 2),
        "read_gb_per_decode_step": card and round(read_gb(card), 2),
        "problems": reading.problems,
        "remarks": reading.remarks,
    }


def read_files(path: Path) -> tuple[Mapping[str, Any], int | None]:
    """config.json and, from a folder, the size of all files where an index says it.

    Raises:
        UsageError: nothing there, no JSON, or not an object.
    """
    if not path.is_dir():
        return _json(path), None
    config = dict(_json(path / "config.json"))
    modelopt = path / _MODELOPT
    if "quantization_config" not in config and modelopt.is_file():
        # ModelOpt writes the number format beside the config.
        told = _json(modelopt).get("quantization")
        if isinstance(told, Mapping):
            config["quantization_config"] = {"quant_method": "modelopt", **cast("Mapping[str, Any]", told)}
    index = path / _INDEX
    if not index.is_file():
        return config, None
    metadata = _json(index).get("metadata")
    total = cast("Mapping[str, Any]", metadata).get("total_size") if isinstance(metadata, Mapping) else None
    if not isinstance(total, int | float) or isinstance(total, bool) or total <= 0:
        raise UsageError(f"{index}: metadata.total_size is {total!r}", help="it is the number of bytes of all weights")
    return config, int(total)


def _json(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise UsageError(f"{path} is not there", help="name a model's config.json, or the folder that holds it")
    if path.stat().st_size > _LARGEST_BYTES:
        raise UsageError(f"{path} is no config: it has {path.stat().st_size / 2**20:.0f} MiB")
    try:
        found: object = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path} is no JSON: {error}", help="download it again from the model's page") from None
    if not isinstance(found, dict):
        raise UsageError(f"{path} holds no JSON object", help="name a model's config.json")
    return cast("Mapping[str, Any]", found)


def _given_name(name: str | None) -> str | None:
    if name and not _HUB_ID.fullmatch(name):
        raise UsageError(f"--name {name} is no hub id", help="--name organisation/model")
    return name


def _name(config: Mapping[str, Any], path: Path) -> str:
    told = config.get("_name_or_path")
    if isinstance(told, str) and told.count("/") == 1 and not told.startswith((".", "/")):
        return told
    raise UsageError(f"{path} does not say which model it is of", help="add --name organisation/model")


def entry_of(card: ModelCard) -> dict[str, Any]:
    """What stands under the model's name in catalog/models.yaml: fields that are not at their defaults."""
    return {key: value for key, value in _given(card).items() if key != "name"} | {"as_of": card.as_of}


def _given(record: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        default = field.default_factory() if callable(field.default_factory) else field.default
        if value == default and field.name != "revision":
            continue
        found[field.name] = _given(value) if dataclasses.is_dataclass(value) else value
    found.pop("as_of", None)
    source = found.pop("source", None)
    return {**found, "source": source} if source else found


def inline_of(card: ModelCard) -> dict[str, Any]:
    """The card as `models[].model` of a stack file takes it."""
    given = _given(card)
    found = {
        key: given[key]
        for key in (
            *("layers", "dense_layers", "hidden", "heads", "kv_heads", "head_dim", "intermediate", "vocab"),
            *("tied_embeddings", "max_context", "params_billion", "active_params_billion", "gated_attention"),
            *("mla", "moe", "linear", "mtp_layers", "mtp_params_billion", "vision_params_billion"),
        )
        if key in given and given[key] != 0
    }
    if card.moe is None:
        found.pop("dense_layers")
    if card.sliding_window:
        found["sliding_window"] = {"tokens": card.sliding_window, "layers": card.sliding_layers}
    if card.active_params_billion == card.params_billion:
        found.pop("active_params_billion")
    found |= {"checkpoint": card.checkpoint.format, "checkpoint_gb": card.checkpoint.gigabytes, "hub_id": card.name}
    return {**found, "gated": True} if card.gated else found
