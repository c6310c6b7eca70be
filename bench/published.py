"""Judges the performance model by published figures of engines and vendors (tests/planner/data/published.yaml).

`python -m bench.published --all` writes the table in docs/explanation/performance.md; without `--all` it shows the half
that was looked at while the model was made. No figure was used to fit anything.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from catalog import load
from catalog.assumptions import assumed
from catalog.types import ModelCard
from planner.layout import Node, fit
from planner.memory import Serving
from planner.performance import Band, NodeLink, Replica, TokenLengths, Workload, performance
from planner.performance.queueing import Curve, band_of
from settings.serving import Layout

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "tests" / "planner" / "data" / "published.yaml"
DOCUMENT = ROOT / "docs" / "explanation" / "performance.md"
_MARK, _END = "<!-- published -->\n", "<!-- end -->"
_SEEN_FROM = "gpustack-qwen3-8b-h100-vllm-concurrency4"
"""From here on all were seen: a card that was added to the catalog shifted the halves while the model was made."""
_SHAREGPT_TAIL = 5.0
"""99th percentile over mean of lengths that are known by their mean alone: conversations (ShareGPT)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """A published figure and what the model says for its set-up."""

    figure: Mapping[str, Any]
    predicted: float
    held_out: bool
    """Never looked at before the model was final; the others were."""

    @property
    def ratio(self) -> float:
        """Predicted speed over published speed: above 1 the model is too fast. A time counts as its inverse."""
        ratio = self.predicted / float(self.figure["value"])
        return 1 / ratio if self.figure["metric"].endswith("_ms") else ratio

    @property
    def error(self) -> float:
        """Ratio less one."""
        return self.ratio - 1


def figures() -> list[dict[str, Any]]:
    """All that are judged: those whose set-up the model covers."""
    found = yaml.safe_load(FIGURES.read_text(encoding="utf-8"))["figures"]
    return [figure for figure in found if not figure.get("outside")]


def verdicts() -> list[Verdict]:
    """Predictions of all judged figures; every second one up to `_SEEN_FROM` was held out."""
    found = figures()
    seen_from = next(index for index, figure in enumerate(found) if figure["id"] == _SEEN_FROM)
    return [
        Verdict(figure=figure, predicted=predict(figure), held_out=index % 2 == 1 and index < seen_from)
        for index, figure in enumerate(found)
    ]


def replica_of_figure(figure: Mapping[str, Any], card: ModelCard) -> Replica:
    """The replica that a figure was measured on, with its engine's limits as they were."""
    gpu = load().gpus[figure["gpu"]]
    engine = "sglang" if figure["engine"].startswith("SGLang") else "vllm"
    given = figure["layout"]
    data = given["data"] or 1
    expert = given["expert"] or (given["tensor"] if data > 1 else 1)
    layout = Layout(tensor=given["tensor"], pipeline=given["pipeline"], expert=expert, data=data)
    weights = {"bf16": 2.0, "fp8": assumed("fp8_online_bytes_per_param")}.get(figure["weights"])
    serving = Serving(
        engine=engine,
        weights_gb=card.params_billion * weights if weights else card.checkpoint.gigabytes,
        kv_bytes_per_value=figure["kv_cache"] / 8,
        context_tokens=int(figure["input_tokens"] + figure["output_tokens"]),
    )
    node = Node(gpu=gpu, gpus=figure["gpus"], nvlink=gpu.nvlink_gb_per_s > 0, gdr=True, name=figure["id"])
    found = fit(card, node, serving, layout)
    tensorrt = figure["engine"].startswith("TensorRT")
    small = gpu.memory_gib < 70 or gpu.name.startswith("A100")
    return Replica(
        card=card,
        gpu=gpu,
        layout=found.layout,
        engine=engine,
        precision="fp8" if figure["weights"].startswith("fp8") else "bf16",
        memory=found.memory,
        # Defaults: TensorRT-LLM 2048 sequences and 8192 tokens a step, vLLM 256 or 1024 sequences, SGLang 4096.
        max_running=2048 if tensorrt else 4096 if engine == "sglang" else 256 if small else 1024,
        chunk_tokens=8192 if tensorrt else None,
        between=NodeLink(nodes=figure["nodes"], gbps=3200) if figure["nodes"] > 1 else None,
        nvlink=node.nvlink,
        kv_bytes_per_value=figure["kv_cache"] / 8,
    )


def predict(figure: Mapping[str, Any]) -> float:
    """The figure's metric as the model has it, for the replica."""
    card = load().models[figure["model"]]
    replica = replica_of_figure(figure, card)
    tail = 1.0 if figure["lengths"] == "fixed" else _SHAREGPT_TAIL
    lengths = [TokenLengths(mean=figure[key], p99=figure[key] * tail) for key in ("input_tokens", "output_tokens")]
    load_, metric = figure["load"], figure["metric"]
    per = {"replica": 1, "gpu": figure["gpus"], "node": figure["nodes"]}[figure["per"]]
    if load_["kind"] == "rate":
        workload = Workload(requests_per_second=load_["per_second"], input=lengths[0], output=lengths[1])
        found = performance(replica, workload)
        if metric in {"mean_tpot_ms", "median_tpot_ms"}:
            return found.tpot_ms.p50
        return found.ttft_ms.p50 if metric.endswith("ttft_ms") else found.output_tokens_per_second / per
    curve = Curve(replica, lengths[0], lengths[1], 0.0)
    asked = load_["running"] if load_["kind"] == "concurrency" else load_["requests"]
    batch = min(curve.limit, asked)
    step = curve.closed_step_ms(batch)
    if metric.endswith("tpot_ms"):
        return step
    tokens = batch / step * 1e3
    if load_["kind"] == "maximum":
        # The longest answers of a set end alone: its duration is the work's and what they need beyond the mean.
        work = load_["requests"] * lengths[1].mean / tokens
        left = (lengths[1].p99 - lengths[1].mean) * replica.costs.decode_ms(batch / 10, curve.context) / 1e3
        tokens *= work / (work + left)
    return tokens / per


def table(found: Iterable[Verdict]) -> str:
    """Markdown: every judged figure with its miss."""
    lines = [
        "| | set-up | published | predicted | miss |",
        "|---|---|---|---|---|",
    ]
    for verdict in found:
        figure = verdict.figure
        unit = "ms a token" if "tpot" in figure["metric"] else "ms TTFT" if "ttft" in figure["metric"] else "tokens/s"
        use = "held out" if verdict.held_out else "seen"
        lines.append(
            f"| {use} | {figure['id']} | {figure['value']:,.0f} {unit} | {verdict.predicted:,.0f} "
            f"| {verdict.error:+.0%}{'' if 1 / 1.4 <= verdict.ratio <= 1.4 else ' **miss**'} |"
        )
    return "\n".join(lines)


def summary(found: Iterable[Verdict]) -> str:
    """One sentence on figures."""
    ratios = [verdict.ratio for verdict in found]
    median = statistics.median(max(ratio, 1 / ratio) - 1 for ratio in ratios)
    within = sum(1 / 1.4 <= ratio <= 1.4 for ratio in ratios)
    bias = statistics.median(ratios) - 1
    return f"{len(ratios)} figures: median error {median:.0%}, {within} within a factor of 1.4, median bias {bias:+.0%}"


def throughputs(found: Iterable[Verdict]) -> list[Verdict]:
    """Those that are about tokens, not about the first one."""
    return [verdict for verdict in found if "ttft" not in verdict.figure["metric"]]


def band(figure: Mapping[str, Any]) -> Band:
    """The error band that a plan prints beside such a figure."""
    return band_of(replica_of_figure(figure, load().models[figure["model"]]))


def with_table(text: str) -> str:
    """The document with its tables filled anew."""
    found = verdicts()
    judged = throughputs(found)
    held_out = [verdict for verdict in judged if verdict.held_out]
    part = "\n\n".join(
        (
            f"Held out, {summary(held_out)}. All, {summary(judged)}.",
            table(found),
        )
    )
    before, rest = text.split(_MARK)
    return f"{before}{_MARK}{part}\n{_END}{rest.split(_END, 1)[1]}"


if __name__ == "__main__":
    if "--all" in sys.argv:
        DOCUMENT.write_text(with_table(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
    shown = [v for v in verdicts() if not v.held_out or "--all" in sys.argv]
    print(table(shown))
    print(summary(throughputs(shown)))
