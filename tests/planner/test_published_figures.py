"""The published figures are whole, and enough of each kind to judge the performance model by."""

from __future__ import annotations

from collections import Counter
from datetime import date
from pathlib import Path

import pytest
import yaml

from catalog.load import load

CATALOG = load()
FIGURES = yaml.safe_load((Path(__file__).parent / "data" / "published.yaml").read_text())["figures"]
JUDGED = [figure for figure in FIGURES if "outside" not in figure]
REQUIRED = {
    *("id", "publisher", "address", "published", "read", "model", "weights", "kv_cache", "gpu", "gpus", "nodes"),
    *("layout", "engine", "input_tokens", "output_tokens", "lengths", "load", "metric", "value", "per", "quote"),
}
LOADS = {"maximum": "requests", "concurrency": "running", "rate": "per_second"}


@pytest.mark.parametrize("figure", FIGURES, ids=[figure["id"] for figure in FIGURES])
def test_a_figure_says_its_set_up(figure):
    assert figure.keys() >= REQUIRED
    assert figure.keys() <= REQUIRED | {"checkpoint", "outside", "remark"}
    assert figure["model"] in CATALOG.models
    assert figure["value"] > 0
    assert figure["per"] in {"replica", "gpu", "node"}
    assert isinstance(figure["read"], date)
    assert "/" in figure["address"]


@pytest.mark.parametrize("figure", JUDGED, ids=[figure["id"] for figure in JUDGED])
def test_a_judged_figure_can_be_set_up(figure):
    assert figure["gpu"] in CATALOG.gpus
    assert figure["input_tokens"] > 0
    assert figure["output_tokens"] > 0
    assert LOADS[figure["load"]["kind"]] in figure["load"]
    layout = figure["layout"]
    assert layout["tensor"] * layout["pipeline"] == figure["gpus"]
    # The quote is what was read: the figure stands in it, as it was printed.
    printed = figure["quote"].replace(",", "")
    assert str(figure["value"]) in printed


def test_ids_are_unique():
    assert len({figure["id"] for figure in FIGURES}) == len(FIGURES)


def test_there_are_enough_of_each_kind():
    gpus = Counter(figure["gpu"] for figure in JUDGED)
    assert len(JUDGED) >= 16
    assert sum("DeepSeek" in figure["model"] for figure in JUDGED) >= 2
    assert gpus["A100-80"] >= 2
    assert gpus["H100"] >= 2
    assert gpus["H200"] >= 2
    assert gpus["L40S"] >= 1
    assert len({figure["engine"].split()[0] for figure in JUDGED}) >= 3
