"""Numbers of a model in the stack file: contradictory ones are refused with their place."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from settings.inline_card import InlineCard

DENSE = {
    "layers": 32,
    "hidden": 4096,
    "heads": 32,
    "kv_heads": 8,
    "head_dim": 128,
    "intermediate": 14336,
    "vocab": 128256,
    "max_context": 131072,
    "params_billion": 8.03,
    "hub_id": "my-org/model",
}
EXPERTS = {"experts": 8, "top_k": 2, "intermediate": 14336}


def test_dense_and_mixture_and_window() -> None:
    assert InlineCard(**DENSE).moe is None
    assert InlineCard(**{**DENSE, "moe": EXPERTS, "intermediate": 0}).dense_layers is None
    windowed = InlineCard(**{**DENSE, "sliding_window": {"tokens": 1024, "layers": 16}})
    assert windowed.sliding_window is not None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kv_heads": 64}, "32 heads do not divide by 64"),
        ({"kv_heads": 5}, "32 heads do not divide by 5"),
        ({"dense_layers": 40}, "40 dense layers of 32"),
        ({"dense_layers": 3}, "do not go with no `moe`"),
        ({"moe": EXPERTS, "dense_layers": 32}, "do not go with `moe`"),
        ({"moe": {**EXPERTS, "top_k": 9}}, "9 of 8 experts"),
        ({"intermediate": 0}, "32 dense layers need the width"),
        ({"sliding_window": {"tokens": 1024, "layers": 33}}, "33 layers with a window or a state, of 32"),
    ],
)
def test_contradictions(change: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        InlineCard(**{**DENSE, **change})
