"""The strict constructor: what it refuses, and what it says about it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from catalog import Catalog, CatalogError
from catalog.load import DIRECTORY
from catalog.records import build
from catalog.types import Gpu, ModelCard

GOOD = yaml.safe_load((DIRECTORY / "gpus.yaml").read_text())
ENTRY = {**GOOD["defaults"], "name": "H100", **GOOD["gpus"]["H100"]}


def test_good_data_is_built() -> None:
    assert build(Gpu, ENTRY, "gpus.yaml: H100").memory_mib == 81920


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"colour": "green"}, "gpus.yaml: H100: unknown key colour"),
        ({"memory_mib": 81920.5}, r"gpus.yaml: H100.memory_mib: expected int, got 81920.5"),
        ({"memory_mib": True}, r"expected int, got True"),
        ({"fp8_hardware": "yes"}, r"H100.fp8_hardware: expected bool, got 'yes'"),
        ({"evidence": "hearsay"}, r"H100.evidence: expected .*, got 'hearsay'"),
        ({"as_of": "2026-11-01"}, r"H100.as_of: expected date, got '2026-11-01'"),
        ({"name": None}, r"H100.name: expected str, got None"),
    ],
)
def test_wrong_data_is_refused(change: dict[str, object], says: str) -> None:
    with pytest.raises(CatalogError, match=says):
        build(Gpu, {**ENTRY, **change}, "gpus.yaml: H100")


def test_a_missing_key_is_named() -> None:
    short = {key: value for key, value in ENTRY.items() if key != "source"}
    with pytest.raises(CatalogError, match="H100: missing source"):
        build(Gpu, short, "gpus.yaml: H100")


def test_nested_data_is_named_by_its_path() -> None:
    models = yaml.safe_load((DIRECTORY / "models.yaml").read_text())
    card = {**models["defaults"], "name": "m", **models["models"]["deepseek-ai/DeepSeek-R1"]}
    with pytest.raises(CatalogError, match=r"m\.moe\.top_k: expected int, got 'eight'"):
        build(ModelCard, {**card, "moe": {**card["moe"], "top_k": "eight"}}, "m")
    with pytest.raises(CatalogError, match=r"m\.mla: missing v_head_dim"):
        build(ModelCard, {**card, "mla": {k: v for k, v in card["mla"].items() if k != "v_head_dim"}}, "m")


def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    (tmp_path / "gpus.yaml").write_text("- a\n")
    with pytest.raises(CatalogError, match=r"gpus\.yaml: expected a mapping"):
        _ = Catalog(tmp_path).gpus
