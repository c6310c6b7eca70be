"""Prefill and decode on GPUs of their own: what a model's two groups are, and what stands against them.

A disaggregated model becomes two drafts, and two models of the Plan: everything that counts GPUs, nodes, money and pods
sees two. The decode group has the model's name and endpoint; the prefill group is called `<name>-prefill`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from catalog.load import Catalog
from planner.drafts import Draft, draft
from planner.engines.checks import options_of
from planner.handoff import (
    NO_LIMIT_MS,
    Side,
    Told,
    bytes_per_token,
    layout_problems,
    network_problems,
    pod_gbps,
    transfer_ms,
    ttft_part_ms,
)
from planner.model_performance import lengths_of, replica_for, tell_too_slow
from planner.performance import Floor, Workload, floor
from planner.plan import DisaggregationPlan, PoolPlan, Role
from planner.pool_facts import PoolFacts
from planner.problems import Findings
from settings.base import LONGEST_NAME
from settings.disaggregation import Disaggregated
from settings.errors import Path, Problem
from settings.root import Settings
from settings.serving import Model, Objectives

ROLES: tuple[Role, ...] = ("prefill", "decode")

_PORTS = {"vllm": 5600, "sglang": 8998}
"""vLLM's side channel (VLLM_NIXL_SIDE_CHANNEL_PORT), SGLang's bootstrap server: the defaults of both."""

RECIPES = {"vllm": "vllm-efa-kv", "sglang": "sglang-efa"}
"""Of images/, with EFA and NIXL; keys of the catalog's images."""

KV_CONNECTOR_ANNOTATION = "smg.ai/kv-connector"
_PREFILL_ANNOTATIONS = {
    "vllm": {KV_CONNECTOR_ANNOTATION: "NixlConnector"},
    "sglang": {"sglang.ai/bootstrap-port": str(_PORTS["sglang"])},
}
"""How the router learns which way a prefill pod hands its cache on. Source: smg, model_gateway/src/service_discovery.rs
and routers/common/kv_transfer.rs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handoff:
    """The two groups of one model, and the way of a prompt's KV cache from one to the other."""

    prefill: Draft
    decode: Draft
    bytes_per_token: float
    """That the ranks of one decode replica read."""
    gbps: float
    """Of the network between two pods: of the one with less."""
    floors: Mapping[Role, Floor]
    ttft_objective_ms: float
    transport: str
    prompt_p99: float

    def transfer_ms(self, tokens: float) -> float:
        """Of the cache of so many tokens, alone on the network."""
        return transfer_ms(tokens, bytes_per_token=self.bytes_per_token, gbps=self.gbps)

    @property
    def least_ms(self) -> float:
        """To the first token of a long prompt, with nobody else there."""
        return (
            self.floors["prefill"].ttft_ms + self.transfer_ms(self.prompt_p99) + self.floors["decode"].ttft_ms
        )  # fmt: skip

    def ttft_limit_ms(self, role: Role) -> float:
        """What a group may take of the promised time."""
        return ttft_part_ms(self.floors[role].ttft_ms, least_ms=self.least_ms, objective_ms=self.ttft_objective_ms)


class GroupFindings(Findings):
    """What is found about one group: told where the stack file says it, and once where it is true of both."""

    def __init__(self, whole: Findings, path: Path, role: Role, own: frozenset[str]) -> None:
        super().__init__()
        self.problems, self.remarks = whole.problems, whole.remarks
        self._path, self._role, self._own = path, role, own

    def problem(self, path: Path, message: str, help: str | None = None) -> None:  # noqa: A002
        """Note a problem; of `replicas`, `layout` or a pool of its own, at the group."""
        depth = len(self._path)
        if path[:depth] == self._path and len(path) > depth and path[depth] in self._own:
            path = (*self._path, "disaggregated", self._role, *path[depth:])
        if Problem(path=path, message=message, help=help) not in self.problems:
            super().problem(path, message, help)

    def remark(self, subject: str, message: str) -> None:
        """Note something that a user should know."""
        super().remark(f"{subject}.disaggregated.{self._role}", message)


def findings_of(sketch: Draft, findings: Findings) -> Findings:
    """Where what is found about a draft goes."""
    return findings if sketch.role is None else _group_findings(sketch.path, sketch.model, sketch.role, findings)


def _group_findings(path: Path, model: Model, role: Role, findings: Findings) -> Findings:
    own = {"replicas", "layout"}
    if model.disaggregated is not None and getattr(model.disaggregated, role).pool is not None:
        own.add("pool")
    return GroupFindings(findings, path, role, frozenset(own))


def drafts_of(
    settings: Settings, hardware: Mapping[str, PoolFacts], catalog: Catalog, findings: Findings
) -> list[Draft]:
    """First pass over all models: one draft each, two of a disaggregated one (none where one of them is impossible)."""
    found: list[Draft] = []
    for index, model in enumerate(settings.models):
        if model.disaggregated is None:
            sketch = draft(index, model, settings, hardware, catalog, findings)
            found += [sketch] if sketch else []
            continue
        path: Path = ("models", index)
        for key, message, help_text in _refusals(model, [other.name for other in settings.models]):
            findings.problem((*path, *key), message, help_text)
        groups = [
            replace(sketch, role=role, serves=model.name)
            for role in ROLES
            if (
                sketch := draft(
                    index,
                    _group(model, model.disaggregated, role),
                    settings,
                    hardware,
                    catalog,
                    _group_findings(path, model, role, findings),
                )
            )
        ]
        found += groups if len(groups) == len(ROLES) else []
    return found


def prefill_name(model: str) -> str:
    """Of the group that computes a model's prompts."""
    return f"{model}-prefill"


def _group(model: Model, wanted: Disaggregated, role: Role) -> Model:
    group = wanted.prefill if role == "prefill" else wanted.decode
    name = prefill_name(model.name) if role == "prefill" else model.name
    pool = group.pool or model.pool
    return model.model_copy(update={"name": name, "replicas": group.replicas, "layout": group.layout, "pool": pool})


_TOGETHER = "leave one of the two out"


def _refusals(model: Model, names: Sequence[str]) -> Iterator[Told]:
    """What a disaggregated model cannot have beside it, or be without."""
    wanted = model.disaggregated
    assert wanted is not None  # noqa: S101 - the caller has looked
    if prefill_name(model.name) in names:
        yield (
            ("name",),
            f"its prefill group would be called like the model `{prefill_name(model.name)}`",
            "give one of the two another name",
        )
    group = prefill_name(model.name)
    if len(group) > LONGEST_NAME:
        yield (
            ("name",),
            f"its prefill group would be called `{group}`, and names have {LONGEST_NAME} characters at most",
            f"shorten it by {len(group) - LONGEST_NAME}",
        )
    if model.runtime == "ray_service":
        yield (
            ("runtime",),
            "Ray Serve builds another application for prefill and decode apart, which is not made here",
            "use runtime deployment or leader_worker_set, or leave `disaggregated` out",
        )
    if not (model.image and model.image.carries_nixl):
        yield (
            ("image",),
            "the engine's image is not known to carry NIXL, which moves the KV cache between prefill and decode",
            f"build `{RECIPES[model.engine]}` from images/ and name it here with `carries_nixl: true`",
        )
    if model.kv_offload is not None:
        yield ("kv_offload",), "it takes the engine's KV connector, which moves the cache between the groups", _TOGETHER
    if model.warm_prompts:
        yield (
            ("warm_prompts",),
            "a group alone answers no request, so none can be replayed before it is ready",
            _TOGETHER,
        )
    if options_of(model).lora is not None:
        yield ("engine_options", "lora"), "adapters were never shown to work over two groups", _TOGETHER
    if model.standby is not None:
        yield ("standby",), "the proxy that asks a standby was never tried before a router of two groups", _TOGETHER
    if model.routing.kind == "service":
        yield (
            ("routing", "kind"),
            "a plain Service cannot: a request goes to prefill and to decode",
            "leave it at `auto`: the router is always there",
        )
    yield from _scaling_refusals(model, wanted)


def _scaling_refusals(model: Model, wanted: Disaggregated) -> Iterator[Told]:
    """What is one number for a model, and cannot be for two groups."""
    for key in ("floors", "idle_minutes"):
        if getattr(model.autoscaling, key):
            yield (
                ("autoscaling", key),
                "one number cannot be meant for both groups",
                "say `disaggregated.prefill.replicas` and `disaggregated.decode.replicas`",
            )
    if model.autoscaling.target_concurrency != "auto":
        yield (
            ("autoscaling", "target_concurrency"),
            "a replica of prefill holds a prompt or two, one of decode dozens of answers",
            "leave it at `auto`",
        )
    for role in ROLES:
        if getattr(wanted, role).replicas.min == 0:
            yield (
                ("disaggregated", role, "replicas", "min"),
                "without a replica of both groups nothing answers, and nothing wakes two of them",
                "set it to 1 or more",
            )


def plan_handoffs(drafts: Sequence[Draft], pools: Mapping[str, PoolPlan], findings: Findings) -> dict[str, Handoff]:
    """Handoffs by model; what the groups cannot be to each other is a problem."""
    by_role = {(sketch.serves, sketch.role): sketch for sketch in drafts}
    found: dict[str, Handoff] = {}
    for sketch in drafts:
        if sketch.role != "decode":
            continue
        prefill = by_role[sketch.serves, "prefill"]
        known = len(findings.problems)
        sides = [_side(group, pools[group.model.pool]) for group in (prefill, sketch)]
        for key, message, help_text in dict.fromkeys(  # each once where both groups share a pool
            (
                *layout_problems(sketch.model.engine, sketch.card, *sides),
                *network_problems(*sides),
            )
        ):
            findings.problem((*sketch.path, *key), message, help_text)
        if len(findings.problems) > known and not pools[sketch.model.pool].hardware.network_gbps:
            continue
        handoff = _handoff(prefill, sketch, pools)
        _judge(handoff, findings)
        found[sketch.serves] = handoff
    return found


def _side(sketch: Draft, pool: PoolPlan) -> Side:
    assert sketch.role is not None  # noqa: S101 - a group's draft
    group = getattr(sketch.model.disaggregated, sketch.role)
    return Side(
        role=sketch.role,
        layout=sketch.fit.layout,
        node=replace(sketch.facts.node(), gpus=pool.hardware.gpus, gdr=pool.hardware.gdr),
        where=pool.name,
        efa_devices=pool.hardware.efa_devices,
        at=("disaggregated", sketch.role, "pool") if group.pool else ("pool",),
        sliced=pool.sharing is not None,
        existing=all(rung.kind == "existing" for rung in pool.rungs),
        zones=pool.zones,
        zone=pool.zone,
    )


def _handoff(prefill: Draft, decode: Draft, pools: Mapping[str, PoolPlan]) -> Handoff:
    floors: dict[Role, Floor] = {}
    for role, sketch in zip(ROLES, (prefill, decode), strict=True):
        prompts, answers, cached = lengths_of(sketch)
        work = Workload(
            requests_per_second=0.0, input=prompts, output=answers, cached_share=cached, prefilled=role == "decode"
        )
        floors[role] = floor(replica_for(sketch, pools[sketch.model.pool]), work)
    layout = decode.fit.layout
    wanted = decode.model.disaggregated
    assert wanted is not None  # noqa: S101 - a draft with a role is of a disaggregated model
    return Handoff(
        prefill=prefill,
        decode=decode,
        bytes_per_token=bytes_per_token(decode.fit.memory, layout),
        gbps=min(
            pod_gbps(hardware.network_gbps, sketch.fit.layout, hardware.gpus)
            for sketch in (prefill, decode)
            for hardware in (pools[sketch.model.pool].hardware,)
        ),
        floors=floors,
        ttft_objective_ms=decode.model.objectives.ttft_p99_ms,
        transport=wanted.transport,
        prompt_p99=lengths_of(prefill)[0].p99,
    )


def _judge(handoff: Handoff, findings: Findings) -> None:
    """Objectives that not even one request alone meets."""
    sketch, objectives = handoff.decode, handoff.decode.model.objectives
    if handoff.least_ms <= objectives.ttft_p99_ms:
        return
    message = (
        f"{objectives.ttft_p99_ms} ms to the first token is below what the groups can do: the prefill of a long prompt "
        f"({handoff.prompt_p99:,.0f} tokens, p99) takes {handoff.floors['prefill'].ttft_ms:.0f} ms alone, its cache "
        f"{handoff.transfer_ms(handoff.prompt_p99):.0f} ms over EFA, the first step "
        f"{handoff.floors['decode'].ttft_ms:.0f}"
    )
    tell_too_slow(sketch, message, handoff.least_ms, "or give prefill more GPUs (`layout.tensor`)", findings=findings)


def with_parts(drafts: Sequence[Draft], handoffs: Mapping[str, Handoff]) -> list[Draft]:
    """The drafts, groups with the part of the objectives that is theirs: prefill has no time between tokens."""
    return [_with_part(sketch, handoffs.get(sketch.serves)) for sketch in drafts]


def _with_part(sketch: Draft, handoff: Handoff | None) -> Draft:
    if sketch.role is None or handoff is None:
        return sketch
    wanted = sketch.model.objectives
    ttft = max(10, int(handoff.ttft_limit_ms(sketch.role)))
    tpot = NO_LIMIT_MS if sketch.role == "prefill" else wanted.tpot_p99_ms
    part = Objectives(ttft_p99_ms=ttft, tpot_p99_ms=tpot)
    return replace(sketch, model=sketch.model.model_copy(update={"objectives": part}))


def plan_group(sketch: Draft, handoff: Handoff | None) -> DisaggregationPlan | None:
    """What a group's pods are told; None for a model of one group."""
    if sketch.role is None or handoff is None:
        return None
    engine, prefill = sketch.model.engine, prefill_name(sketch.serves)
    return DisaggregationPlan(
        role=sketch.role,
        serves=sketch.serves,
        peer=sketch.serves if sketch.role == "prefill" else prefill,
        transport=handoff.transport,  # type: ignore[arg-type]
        port=_PORTS[engine],
        transfer_ms=handoff.transfer_ms(handoff.prompt_p99),
        annotations=_PREFILL_ANNOTATIONS[engine] if sketch.role == "prefill" else {},
    )
