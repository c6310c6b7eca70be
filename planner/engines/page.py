"""Writes docs/reference/engines.md. `python -m planner.engines.page [--check]`; `--lines` prints command lines.

The lines are for `python -m catalog.tools.engine_flags --lines FILE`, which puts them to the engines' own parsers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from catalog.engine_flags import parsed, parser_data, started
from catalog.load import load
from catalog.tools.generated import write_or_check
from planner.engines.checks import filled
from planner.engines.matrix import INSTANCES, MODELS, SERVERS, Case, Row, lines, matrix

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "engines.md"

_SHORT = {"deployment": "", "leader_worker_set": "LWS", "ray_service": "Ray"}


def page() -> str:
    """The page."""
    rows = matrix()
    return f"""# Engines: pinned versions, options, and what they were tried on

`python -m planner.engines.page` writes this page. What an engine takes is not copied by hand: `catalog/engine_flags/`
holds what each pinned version's own argument parser takes, written by `python -m catalog.tools.engine_flags`, which
installs the engine's wheel on a machine without GPU and asks. Command lines of a plan are held to it while planning,
and so is `engine_options.extra_args`: what the version does not have is refused in the stack file, with what to say
instead. Metrics and environment variables are read in the packages' own source, LMCache's too: dashboards, alerts and
triggers name no metric that is not there, and no pod is given a variable that nobody in it reads
(`catalog/engine_flags/variables.yaml` lists those of the libraries below).

{_versions()}

A line that parses may still be refused when the engine configures itself. "Starts configured" counts those that vLLM
and SGLang took up to where they would load weights, each for the GPU of its case, on a machine that has none
(`python -m catalog.tools.engine_start`); Ray's part is held to Ray Serve's own schema instead.

`python -m ops plan --stack prod --explain deepseek-r1` prints a model's command line, each option with its reason.
Fields of `engine_options`: [the stack file](stack-file.md#vllmoptions); how to use them:
[engine options](../howto/engine-options.md).

## What parallel degrees become

| `layout` | vLLM | SGLang | Ray Serve LLM |
|---|---|---|---|
| `tensor` | `--tensor-parallel-size` (of one data parallel group) | `--tp-size` (of the whole replica) | \
`tensor_parallel_size` |
| `pipeline` | `--pipeline-parallel-size`; `auto` takes it between nodes, where it sends little | `--pp-size` | \
`pipeline_parallel_size` |
| `expert` | `--enable-expert-parallel`, each rank reads its own experts alone | `--ep-size` | \
`enable_expert_parallel` |
| `data` | `--data-parallel-size`, one node, with experts spread | `--attn-dp-size` | refused |
| several nodes | `--nnodes`, workers `--headless` | `--nnodes`, tensor over all of them | placement group of ranks |

Tokens reach experts by all-gather and reduce-scatter. DeepEP needs NVSHMEM, which nobody has shown fast on EFA: it is
used only where `engine_options.expert_backend` asks.

## The matrix

{len([row for row in rows if row.plan])} of {len(rows)} combinations fit and were planned. The tests hold each command
line to the recorded parser; on the date above each was put to the engine's own. A cell is tensor x pipeline; `LWS` is a
LeaderWorkerSet over the nodes named; a dash means that the model does not fit.

{_table(rows)}

## Options in the matrix

{_options(rows)}
"""


def _versions() -> str:
    tried = parsed()
    counted = ("flags", "metrics", "variables")
    columns = ("engine", "version", *counted, "read", "lines tried on the real parser", "refused", "starts configured")
    head = f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}"
    body = [
        f"| {name} | {'vLLM ' if name == 'ray-llm' else ''}{data.version} | {len(data.flags)} | {len(data.metrics)} | "
        f"{len(data.environment)} | "
        f"{data.as_of} | {tried[name]['lines']} on {tried[name]['as_of']} | {tried[name]['refused']} | "
        f"{_configured(name)} |"
        for name in load().engines
        if (data := parser_data(name))
    ]
    return "\n".join([head, *body])


def _configured(engine: str) -> str:
    found = started().get(engine)
    return f"{found['starts']} on {found['as_of']}" if found else "-"


def _table(rows: tuple[Row, ...]) -> str:
    by_case = {_key(row.case): row for row in rows if not _special(row.case)}
    head = f"| model | server | {' | '.join(INSTANCES)} |\n|---|---|{'---|' * len(INSTANCES)}"
    body = [
        f"| {model} | {'Ray' if runtime == 'ray_service' else engine} | "
        + " | ".join(_cell(by_case[model, instance, engine, runtime]) for instance in INSTANCES)
        + " |"
        for model in MODELS
        for engine, runtime in SERVERS
    ]
    return "\n".join([head, *body])


def _special(case: Case) -> bool:
    """Whether the case is about options."""
    return case.name.partition(" ")[0] != case.model


def _key(case: Case) -> tuple[str, str, str, str]:
    return case.model, case.instance, case.engine, case.runtime


def _cell(row: Row) -> str:
    if row.plan is None:
        return "-"
    layout = row.plan.layout
    degrees = f"{layout.tensor} x {layout.pipeline}"
    return degrees if layout.nodes == 1 else f"{degrees} {_SHORT[row.plan.runtime]}, {layout.nodes} nodes"


def _options(rows: tuple[Row, ...]) -> str:
    head = "| what | model | on | options beyond the plain line |\n|---|---|---|---|"
    plain = {_key(row.case): row for row in rows if not _special(row.case)}
    return "\n".join([head, *(_option_row(row, plain.get(_key(row.case))) for row in rows if _special(row.case))])


def _option_row(row: Row, plain: Row | None) -> str:
    case = row.case
    beyond = " ".join(_beyond(row, plain)) if row.plan else f"refused: {row.why_not}"
    return f"| {case.name} | {case.model} | {case.instance} | `{beyond}` |"


def _beyond(row: Row, plain: Row | None) -> Iterator[str]:
    had = {argument.tokens for argument in plain.plan.arguments} if plain and plain.plan else set[tuple[str, ...]]()
    for argument in row.plan.arguments if row.plan else ():
        if argument.tokens not in had:
            yield " ".join(argument.tokens)


def main(arguments: list[str]) -> int:
    """Write the page, compare it, or print the lines."""
    if "--lines" in arguments:
        found = {
            engine: {name: line if engine == "ray-llm" else filled(line) for name, line in named.items()}
            for engine, named in lines().items()
        }
        sys.stdout.write(json.dumps(found) + "\n")
        return 0
    return write_or_check(PAGE, page(), "planner.engines.page", arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
