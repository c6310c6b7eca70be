"""One entry comes into a stack file and every other byte stays."""

from __future__ import annotations

import difflib

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from settings.edit import EditError, entry_of, with_entry
from tests.stacks import PLATFORM, stack_path

POOL = {
    "name": "h200",
    "instance_type": "p5en.48xlarge",
    "availability_zone": "us-east-1a",
    "capacity": [{"kind": "spot", "nodes": {"min": 0, "max": 3}}, {"kind": "on_demand", "nodes": {"min": 1, "max": 4}}],
}
MODEL = {
    "name": "my-model",
    "model": "deepseek-ai/DeepSeek-R1",
    "engine": "vllm",
    "pool": "h200",
    "layout": {"tensor": 8},
    "replicas": {"min": 2, "max": 2},
    "traffic": {"requests_per_second": 8, "input_tokens": {"mean": 600, "p99": 2400}},
}
ENTRIES = {"pools": POOL, "models": MODEL}
EKS_STACKS = ("dev", "staging", "prod")


def text_of(stack):
    return stack_path(stack).read_text(encoding="utf-8")


def changed_lines(before, after):
    """(removed, added) lines."""
    diff = list(difflib.ndiff(before.splitlines(), after.splitlines()))
    return [line[2:] for line in diff if line.startswith("- ")], [line[2:] for line in diff if line.startswith("+ ")]


@pytest.mark.parametrize("stack", EKS_STACKS)
@pytest.mark.parametrize("section", ENTRIES)
def test_an_entry_is_added_and_no_line_is_lost(stack, section):
    before = text_of(stack)
    after = with_entry(before, section, ENTRIES[section], replace=False)
    removed, added = changed_lines(before, after)
    assert removed == []
    assert added[0] == f"      - name: {ENTRIES[section]['name']}"
    assert entry_of(after, section, ENTRIES[section]["name"]) == ENTRIES[section]


def test_it_is_written_as_the_committed_stacks_are():
    after = with_entry(text_of("prod"), "pools", POOL, replace=False)
    assert (
        """      - name: h200
        instance_type: p5en.48xlarge
        availability_zone: us-east-1a
        capacity:
          - {kind: spot, nodes: {min: 0, max: 3}}
          - {kind: on_demand, nodes: {min: 1, max: 4}}
    cache:
"""
        in after
    )
    after = with_entry(text_of("prod"), "models", MODEL, replace=False)
    assert (
        """        replicas: {min: 2, max: 2}
        traffic:
          requests_per_second: 8
          input_tokens: {mean: 600, p99: 2400}
    observability:
"""
        in after
    )


def test_comments_before_the_next_key_stay_before_it():
    head = "config:\n  inference-platform:platform:\n    pools:\n"
    text = f"{head}      - name: a # first\n\n    # the cache\n    cache: {{}}\n"
    after = with_entry(text, "pools", {"name": "b"}, replace=False)
    assert after == text.replace("# first\n", "# first\n      - name: b\n")


def test_an_entry_of_the_name_is_left_alone():
    with pytest.raises(EditError, match=r"models has `deepseek-r1` already \(line \d+\)") as caught:
        with_entry(text_of("prod"), "models", {**MODEL, "name": "deepseek-r1"}, replace=False)
    assert "--replace" in caught.value.help


def test_a_replaced_entry_keeps_its_comments_and_the_keys_that_nobody_names():
    before = text_of("prod")
    after = with_entry(before, "models", {**MODEL, "name": "deepseek-r1"}, replace=True, without=("runtime",))
    kept = entry_of(after, "models", "deepseek-r1")
    assert kept["image"]["carries_efa"] is True
    assert kept["context_tokens"] == 32768
    assert kept["pool"] == "h200"
    assert "runtime" not in kept
    removed, added = changed_lines(before, after)
    assert not [line for line in removed if "#" in line]
    assert len(added) < len(removed)
    assert "image: # the catalog's SGLang image carries no EFA" in after


@pytest.mark.parametrize("ends", ["\r\n", "\n"])
@pytest.mark.parametrize("last", ["", "END"])
def test_line_ends_stay(ends, last):
    text = text_of("dev").rstrip("\n").replace("\n", ends) + (ends if last else "")
    after = with_entry(text, "models", MODEL, replace=False)
    assert ("\r\n" in after) == (ends == "\r\n")
    assert after.count("\n") == after.count(ends) if ends == "\n" else after.count("\n") == after.count("\r\n")
    assert after.endswith(ends) == text.endswith(ends)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("config: {}\n", "there is no list `models`"),
        ("config:\n  inference-platform:platform:\n    models: []\n", "there is no list `models`"),
        ("config:\n  inference-platform:platform:\n    models: [{name: a}]\n", "written in one line"),
    ],
)
def test_a_file_that_cannot_be_added_to_is_told(text, words):
    with pytest.raises(EditError, match=words):
        with_entry(text, "models", MODEL, replace=False)


comment = st.sampled_from(["", "  # why", "\n        # a note\n", "\n"])
value = st.sampled_from(
    ["x", "'#x'", '"a: b"', "[1, 2]", "{k: {l: 1}}", "|\n          two\n          lines", ">-\n          a"]
)


@settings(deadline=None)
@given(
    items=st.lists(st.tuples(value, comment, value), min_size=1, max_size=4),
    column=st.integers(4, 7),
    after=st.sampled_from(["", "    cache: {kind: s3}\n", "    # note\n    cache: {kind: s3}\n"]),
    at=st.integers(0, 4),
)
def test_whatever_surrounds_it_stays(items, column, after, at):
    """Block scalars, flow collections, comments and blank lines at any indentation."""
    pad = " " * column
    body = (
        "".join(
            f"{pad}- name: item-{number}\n{pad}  one: {one}{said if said.startswith(' ') else ''}\n{pad}  two: {two}\n"
            for number, (one, said, two) in enumerate(items)
        )
        .replace("|  # why", "|")
        .replace(">-  # why", ">-")
    )
    text = f"# head\nconfig:\n  {PLATFORM}:\n    pools:\n{body}{after}"
    try:
        before = yaml.safe_load(text)["config"][PLATFORM]
    except yaml.YAMLError:
        return
    edited = with_entry(text, "pools", POOL, replace=False)
    removed, _ = changed_lines(text, edited)
    assert removed == []
    assert yaml.safe_load(edited)["config"][PLATFORM]["pools"] == [*before["pools"], POOL]
    name = f"item-{min(at, len(items) - 1)}"
    replaced = with_entry(text, "pools", {"name": name, "one": "new"}, replace=True)
    pools = yaml.safe_load(replaced)["config"][PLATFORM]["pools"]
    assert [pool["name"] for pool in pools] == [pool["name"] for pool in before["pools"]]
    for old, new in zip(before["pools"], pools, strict=True):
        assert new == ({**old, "one": "new"} if old["name"] == name else old)
