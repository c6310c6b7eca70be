"""Models whose numbers stand in the stack file are planned like the catalog's."""

from __future__ import annotations

import pytest

from catalog.load import load
from ops.model_card import inline_of
from planner import load_and_plan
from settings.errors import StackFileError
from tests.stacks import changed

CARDS = load().models


def test_an_inline_card_is_planned_like_the_catalogs(tmp_path):
    """R1 with its numbers written out: latents, experts, prediction layer."""
    r1 = inline_of(CARDS["deepseek-ai/DeepSeek-R1"])
    (tmp_path / "a").mkdir()
    named = load_and_plan(changed(tmp_path / "a", "prod", {}))[1].models[0]
    inline = load_and_plan(changed(tmp_path, "prod", {"models.0.model": r1}))[1].models[0]
    assert inline.memory == named.memory
    assert inline.layout == named.layout
    assert inline.weights.load == named.weights.load


def test_parameters_that_the_shapes_do_not_make_are_refused(tmp_path):
    llama = inline_of(CARDS["meta-llama/Llama-3.1-8B-Instruct"]) | {"params_billion": 80.3, "checkpoint_gb": 160.6}
    with pytest.raises(StackFileError) as refused:
        load_and_plan(changed(tmp_path, "dev", {"models.0.model": llama}))
    assert "80.3 billion parameters, but layers, widths and vocabulary make 8.03" in str(refused.value)
    assert "model-card --inline" in str(refused.value)
