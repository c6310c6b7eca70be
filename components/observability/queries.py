"""PromQL for the dashboard: the engines' own metric names, summed by model."""

from __future__ import annotations

from dataclasses import dataclass

from catalog.types import EngineMetrics
from planner.plan import ModelPlan

MODEL_VARIABLE = "$model"
WINDOW = "$__rate_interval"


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineFamily:
    """Models whose engine calls its metrics the same."""

    title: str
    namespaces: tuple[str, ...]
    metrics: EngineMetrics
    has_tiers: bool
    """Whether one of its models keeps KV blocks outside the GPUs."""
    first_stage_only: bool
    """SGLang exports its gauges from every pipeline stage, of which the first counts, and with priorities once more for
    each of them."""
    hands_over: bool = False
    """Whether one of them has prefill and decode apart."""

    @property
    def legend(self) -> str:
        """Names each series by its model."""
        return f"{{{{{self.metrics.model_label}}}}}"

    def _labels(self, *, gauge: bool) -> str:
        labels = [f'namespace=~"{"|".join(self.namespaces)}"', f'{self.metrics.model_label}=~"{MODEL_VARIABLE}"']
        if gauge and self.first_stage_only:
            labels += ['pp_rank="0"', 'priority=""']
        return ",".join(labels)

    def total(self, gauge: str) -> str:
        """Sum of a gauge over a model's replicas."""
        return f"sum by ({self.metrics.model_label}) ({gauge}{{{self._labels(gauge=True)}}})"

    def highest(self, gauge: str) -> str:
        """The replica with the highest value."""
        return f"max by ({self.metrics.model_label}) ({gauge}{{{self._labels(gauge=True)}}})"

    def rate(self, counter: str) -> str:
        """Increase each second, over a model's replicas; the counter may carry labels of its own."""
        name, brace, own = counter.partition("{")
        labels = f"{own.removesuffix('}')},{self._labels(gauge=False)}" if brace else self._labels(gauge=False)
        return f"sum by ({self.metrics.model_label}) (rate({name}{{{labels}}}[{WINDOW}]))"

    def share(self, part: str, whole: str) -> str:
        """One counter's share of another, nothing where the other stands still."""
        return f"{self.rate(part)} / ({self.rate(whole)} > 0)"

    def quantile(self, histogram: str, q: float) -> str:
        """A quantile over a model's replicas."""
        buckets = f"rate({histogram}_bucket{{{self._labels(gauge=False)}}}[{WINDOW}])"
        return f"histogram_quantile({q}, sum by (le, {self.metrics.model_label}) ({buckets}))"


def families(models: tuple[ModelPlan, ...]) -> tuple[EngineFamily, ...]:
    """The engine families of a plan, in the order of their first model."""
    found: dict[tuple[str, EngineMetrics], list[ModelPlan]] = {}
    for model in models:
        found.setdefault((model.engine, model.metrics), []).append(model)
    return tuple(
        EngineFamily(
            title=_title(members[0]),
            namespaces=tuple(sorted({member.namespace for member in members})),
            metrics=metrics,
            has_tiers=any(member.kv_tiers for member in members),
            first_stage_only=engine == "sglang",
            hands_over=any(member.disaggregation for member in members),
        )
        for (engine, metrics), members in found.items()
    )


def _title(model: ModelPlan) -> str:
    name = {"vllm": "vLLM", "sglang": "SGLang"}[model.engine]
    return f"{name} on Ray Serve" if model.runtime == "ray_service" else name
