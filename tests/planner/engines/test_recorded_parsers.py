"""The recorded argument parsers: of the pinned versions, tried for real, and as strict as the engines."""

from __future__ import annotations

import pytest

from catalog.engine_flags import parsed, parser_data
from catalog.load import load
from planner.engines.ray import keyword_value

ENGINES = ("vllm", "sglang", "ray-llm")


@pytest.mark.parametrize("engine", ENGINES)
def test_the_record_is_of_the_pinned_version(engine: str) -> None:
    assert parser_data(engine).version == load().engines[engine].engine_version
    assert parsed()[engine]["version"] == load().engines[engine].engine_version


@pytest.mark.parametrize("engine", ENGINES)
def test_the_record_says_where_it_comes_from(engine: str) -> None:
    data = parser_data(engine)
    assert data.version in data.source
    assert data.as_of >= "2026-11-22"
    assert len(data.flags) > 250
    assert len(data.metrics) > 50


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_called_removed_is_not_in_the_pinned_version(engine: str) -> None:
    data = parser_data(engine)
    assert data.removed
    assert not set(data.removed) & set(data.by_name)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_real_parsers_took_every_line(engine: str) -> None:
    tried = parsed()[engine]
    assert tried["refused"] == 0
    assert tried["lines"] >= 40


# (engine, line, refused token, words of reason or help); each was put to the real parsers too.
REFUSED = [
    ("vllm", ["/m", "--swap-space=4"], "--swap-space", "kv_offload"),
    ("vllm", ["/m", "--max-lora-rank=24"], "--max-lora-rank", "none of its values"),
    ("vllm", ["/m", "--tensor-parallel-size=two"], "--tensor-parallel-size", "whole number"),
    ("vllm", ["/m", "--speculative-config=mtp"], "--speculative-config", "JSON"),
    ("vllm", ["/m", "--headless=yes"], "--headless", "no value"),
    ("vllm", ["/m", "--port"], "--port", "needs a value"),
    ("vllm", ["/m", "--tensor-paralel-size=2"], "--tensor-paralel-size", "did you mean `--tensor-parallel-size`"),
    ("vllm", ["/m", "extra"], "extra", "no option stands before it"),
    ("sglang", ["--tool-call-parser=llama3_json"], "--tool-call-parser", "none of its values"),
    ("sglang", ["/m"], "/m", "no option stands before it"),
    ("sglang", ["--cuda-graph-max-bs=16"], "--cuda-graph-max-bs", "--cuda-graph-max-bs-decode"),
    ("ray-llm", ["--swap-space=4"], "--swap-space", "kv_offload"),
]


@pytest.mark.parametrize(("engine", "line", "token", "words"), REFUSED, ids=[f"{c[0]} {c[1][-1]}" for c in REFUSED])
def test_lines_that_the_engines_refuse_are_refused(engine: str, line: list[str], token: str, words: str) -> None:
    (refusal,) = parser_data(engine).check(line)
    assert refusal.token == token
    assert words in f"{refusal.why} {refusal.help or ''}"


TAKEN = [
    ("vllm", ["/m", "--max-model-len=32k", "--max-model-len", "auto"]),
    ("vllm", ["/m", "--tensor_parallel_size=2"]),
    ("vllm", ["/m", "--lora-modules", "a=/x", "b=/y", "--headless"]),
    ("vllm", ["/m", "-tp", "4", "--disable-prefix-caching"]),
    ("vllm", ["/m", "--no-enable-prefix-caching"]),
    ("sglang", ["--model-path=/m", "--lora-paths", "a=/x", "b=/y", "--enable-metrics"]),
]


@pytest.mark.parametrize(("engine", "line"), TAKEN, ids=[" ".join(case[1]) for case in TAKEN])
def test_lines_that_the_engines_take_are_taken(engine: str, line: list[str]) -> None:
    assert parser_data(engine).check(line) == []


def test_flags_of_the_two_vllms_differ() -> None:
    """Why Ray has a record of its own: a flag of one version is none of the other's."""
    ours, rays = set(parser_data("vllm").by_name), set(parser_data("ray-llm").by_name)
    assert ours - rays
    assert "--disable-prefix-caching" in ours - rays


@pytest.mark.parametrize("engine", ["vllm", "sglang", "ray-llm"])
def test_parsers_of_every_card_are_built_into_the_pinned_version(engine: str) -> None:
    data = parser_data(engine)
    server = "sglang" if engine == "sglang" else "vllm"
    for field, dest in (("tool_parser", "tool_call_parser"), ("reasoning_parser", "reasoning_parser")):
        flag = data.by_dest[dest]
        known = {str(choice) for choice in flag.choices} | set(flag.known)
        assert known
        for card in load().models.values():
            value = getattr(card, field).get(server)
            assert value is None or value in known, (card.name, field)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("--enable-chunked-prefill", True),
        ("--no-enable-chunked-prefill", False),
        ("--enforce-eager", True),
        ("--max-model-len=32k", "32k"),
        ("--stream-interval=4", 4),
        ("--watermark=0.1", 0.1),
        ('--speculative-config={"method":"ngram"}', {"method": "ngram"}),
    ],
)
def test_options_become_keywords_of_ray(text: str, value: object) -> None:
    name, _, given = text.partition("=")
    flag = parser_data("ray-llm").flag(name)
    assert flag is not None
    assert keyword_value(flag, name, given) == value


def test_the_negative_of_a_switch_that_says_disable_says_no() -> None:
    flag = parser_data("vllm").flag("--enable-chunked-mm-input")
    assert flag is not None
    assert flag.names[0] == "--disable-chunked-mm-input"
    assert keyword_value(flag, "--enable-chunked-mm-input", "") is False
    assert keyword_value(flag, "--disable-chunked-mm-input", "") is True
