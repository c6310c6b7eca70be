"""What serves a model that gets traffic, under the lengths of that traffic."""

from __future__ import annotations

from dataclasses import dataclass

from planner.plan import Role
from simulation.replicas import PromptTable, ReplicaTable, tabulate, tabulate_prompts
from simulation.subjects import Subject
from simulation.traffic import ModelTraffic


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A model that gets traffic: one of its replicas, and what it is held to."""

    table: ReplicaTable
    """One of those that answer; of a disaggregated model a decode replica."""
    ttft_objective_ms: float
    tpot_objective_ms: float
    prompts: PromptTable | None = None
    """Of a disaggregated model."""
    ttft_parts_ms: tuple[float, float] = (0.0, 0.0)
    """Of a disaggregated model: what of the time to the first token is prefill's, and what decode's."""

    def table_of(self, role: Role | None) -> ReplicaTable:
        """Of one of the two groups, or of the model where it has one."""
        return self.prompts.replica if role == "prefill" and self.prompts is not None else self.table


def served_of(subject: Subject, asked: ModelTraffic) -> Served:
    """A model under the lengths that it is asked."""
    prompts, handoff = subject.prompts, subject.handoff
    parts = None
    if prompts is not None and handoff is not None:
        parts = tabulate_prompts(
            prompts.replica,
            input=asked.input,
            cached_share=asked.cached_share,
            transfer_ms=handoff.transfer_ms,
            bytes_per_token=handoff.bytes_per_token,
        )
    return Served(
        table=tabulate(
            subject.replica,
            input=asked.input,
            output=asked.output,
            cached_share=asked.cached_share,
            prefilled=parts is not None,
        ),
        ttft_objective_ms=subject.ttft_objective_ms,
        tpot_objective_ms=subject.tpot_objective_ms,
        prompts=parts,
        ttft_parts_ms=(
            prompts.ttft_objective_ms if prompts else 0.0,
            subject.answers.ttft_objective_ms if prompts else 0.0,
        ),
    )
