"""What the pinned vLLM made of small models' shards: `engine_options.load: sharded` rests on it."""

from __future__ import annotations

import pytest

from catalog.engine_flags import saved_shards
from catalog.load import load
from catalog.tools.saved_shards import MODELS
from components.scripts.save_shards import rank_of


def test_it_was_asked_in_the_pinned_version() -> None:
    """Of another version nobody knows: `python -m catalog.tools.saved_shards`."""
    assert saved_shards()["version"] == load().engines["vllm"].engine_version


@pytest.mark.parametrize("architecture", MODELS)
def test_every_tensor_came_back_as_it_was(architecture: str) -> None:
    layouts = saved_shards()["models"][architecture]
    assert len(layouts) == 2
    for found in layouts.values():
        assert min(found["tensors"]) > 10
        assert found["different"] == []


def test_the_script_knows_its_files() -> None:
    for layouts in saved_shards()["models"].values():
        found = {layout: [rank_of(name) for name in layouts[layout]["files"]] for layout in layouts}
        assert found == {"tensor 2, pipeline 1": [(0, 0), (0, 1)], "tensor 1, pipeline 2": [(0, 0), (1, 0)]}
