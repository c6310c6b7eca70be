"""A disaggregated model: prompts at one group of replicas, their KV caches over the network, answers at another.

Prompts and caches are followed one by one (`simulation.lines`); decode batches are counted as those of other models
are (`simulation.queues`), without a prompt between their tokens. The router chooses both replicas at random among those
that are ready. What a lost prefill replica had, and what was on its way from it or to a lost decode replica, the router
tries again at once, so such requests wait on; what a lost decode replica was writing, its client asks again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from planner.plan import ModelPlan
from simulation.groups import TICK_SECONDS, Group, Length, group_of, observed, slots_of, step_seconds
from simulation.latency import BINS, Before, LatencySampler, count, quantile
from simulation.lines import ROW, Lines, Rows
from simulation.queues import Queues, Standing, StepRecord
from simulation.recorder import ModelRecorder, known
from simulation.results import GroupResult, ModelResult, TransferResult
from simulation.scaling import Observation
from simulation.served import Served
from simulation.traffic import ModelTraffic

Counts = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


class _PrefillLine:
    """Prefill replicas, as those see them who add and remove replicas."""

    def __init__(self, model: Apart, shape: tuple[int, int]) -> None:
        self._model = model
        self.accepts: Flags = np.zeros(shape, dtype=bool)

    def set_accepting(self, accepts: Flags) -> None:
        self.accepts = accepts

    def release(self, variant: int, slot: int) -> None:
        self._model.lose_prefill(variant, slot)

    def idle(self, variant: int, slot: int) -> bool:
        """Its caches are read from it until they have gone over."""
        model = self._model
        return not (model.prompts.of(variant, slot) or model.caches.of(variant, slot, column="source"))


class _DecodeLine:
    """Decode replicas, likewise."""

    def __init__(self, model: Apart) -> None:
        self._model = model

    @property
    def accepts(self) -> Flags:
        return self._model.queues.accepts

    def set_accepting(self, accepts: Flags) -> None:
        self._model.queues.set_accepting(accepts)

    def release(self, variant: int, slot: int) -> None:
        self._model.lose_decode(variant, slot)

    def idle(self, variant: int, slot: int) -> bool:
        return self._model.queues.idle(variant, slot) and not self._model.caches.of(variant, slot)


class Apart:
    """A model with prefill and decode apart."""

    def __init__(
        self,
        asked: ModelTraffic,
        served: Served,
        plans: tuple[Sequence[ModelPlan], Sequence[ModelPlan]],
        length: Length,
        *,
        seed: int,
    ) -> None:
        assert served.prompts is not None  # noqa: S101 - a disaggregated model's
        variants = len(plans[0])
        shapes = [(variants, slots_of(own)) for own in plans]
        table = served.prompts
        self._asked, self._served, self._table, self._length = asked, served, table, length
        self.prompts = Lines(
            table.work_ms,
            table.alone_ms,
            variants=variants,
            slots=shapes[0][1],
            step_ms=table.replica.chunk_ms,
            waiting=table.replica.queue_limit,
        )
        self.caches = Lines(table.transfer_ms, table.transfer_ms, variants=variants, slots=shapes[1][1])
        self._seconds = step_seconds(served.table)
        self.queues = Queues(served.table, variants=variants, slots=shapes[1][1], seconds=self._seconds, seed=seed)
        self._sampler = LatencySampler(served.table, variants=variants, seconds=self._seconds, seed=seed)
        self._prefill = group_of(
            plans[0], table.replica, _PrefillLine(self, shapes[0]), start=length.start, seconds=length.seconds
        )
        self._decode = group_of(plans[1], served.table, _DecodeLine(self), start=length.start, seconds=length.seconds)
        self.groups: tuple[Group, ...] = (self._prefill, self._decode)
        self._whole, *self._parts = (ModelRecorder(variants, length.seconds, keep=length.keep) for _ in range(3))
        # One stream for what all variants share, and one for what each has of its own.
        self._shared = np.random.default_rng([seed, 5])
        self._own = [np.random.default_rng([seed, 6, variant]) for variant in range(variants)]
        self._again: list[Rows] = []
        """Requests that are tried again in the next tick."""
        self._asked_again: Counts = np.zeros(variants, dtype=np.int64)
        """Requests whose clients ask again then."""
        self._now = 0.0
        self._count = {name: np.zeros(variants, dtype=np.int64) for name in _COUNTED}
        self.handed_tokens: Floats = np.zeros(variants)
        self._gigabytes: Floats = np.zeros(variants)
        self._transfers: Floats = np.zeros((variants, BINS))

    # What happens to replicas.

    def lose_prefill(self, variant: int, slot: int) -> None:
        """A prefill replica is gone, and all that is not with decode yet."""
        self._try_again(
            variant, np.concatenate((self.prompts.lose(variant, slot), self.caches.lose_source(variant, slot)))
        )

    def lose_decode(self, variant: int, slot: int) -> None:
        """A decode replica is gone: what it wrote begins anew, from the prompt."""
        self._try_again(variant, self.caches.lose(variant, slot))
        self.queues.release(variant, slot)
        self._asked_again[variant] += self.queues.returned[variant]
        self.queues.returned[variant] = 0

    def _try_again(self, variant: int, rows: Rows) -> None:
        self._count["interrupted"][variant] += len(rows)
        rows["to_prefill"], rows["to_decode"] = self._own[variant].random((2, len(rows)))
        self._again.append(rows)

    # What happens to requests.

    def serve(self, tick: int) -> None:
        """The requests of a tick on their way as far as they come."""
        begin = float(tick * TICK_SECONDS)
        self._now = end = begin + TICK_SECONDS
        offered = self._offered(tick, begin)
        self._refuse(self.prompts.add(self._routed(offered), end))
        computed = self.prompts.through(end)
        self._refuse(self.caches.add(self._sent(computed), end))
        arrived = self.caches.through(end)
        prefill = np.zeros((len(self._own), BINS))
        count(prefill, computed["variant"], (computed["ends"] - computed["tried"]) * 1e3)
        count(self._transfers, arrived["variant"], (arrived["ends"] - arrived["at"]) * 1e3)
        self._count["handed"] += self._by_variant(arrived)
        np.add.at(self.handed_tokens, arrived["variant"], self._table.tokens[arrived["prompt"]])
        np.add.at(self._gigabytes, arrived["variant"], self._table.gigabytes[arrived["prompt"]])
        ttft, decode, tpot = self._decoded(arrived, begin)
        self._record(tick, (ttft, prefill, decode), tpot)

    def _offered(self, tick: int, begin: float) -> Rows:
        """What is asked in a tick: the same new requests in all variants, and what is asked again in each."""
        counts = self._asked.counts[tick * TICK_SECONDS : min((tick + 1) * TICK_SECONDS, self._length.seconds)]
        number, variants = int(counts.sum()), len(self._own)
        new = np.zeros(number, dtype=ROW)
        new["since"] = begin + np.repeat(np.arange(len(counts)), counts) + self._shared.random(number)
        self._fill(new, self._shared)
        self._count["arrived"] += number
        offered = [np.tile(new, variants)]
        offered[0]["variant"] = np.repeat(np.arange(variants), number)
        for variant, random in enumerate(self._own):
            anew = np.zeros(int(self._asked_again[variant]), dtype=ROW)
            anew["variant"], anew["since"] = variant, begin
            self._fill(anew, random)
            offered.append(anew)
        self._asked_again[:] = 0
        offered += self._again
        self._again = []
        rows = np.concatenate(offered)
        rows["tried"] = rows["at"] = np.maximum(rows["since"], begin)
        return rows

    def _fill(self, rows: Rows, random: np.random.Generator) -> None:
        """A prompt, and which replicas the router would choose."""
        rows["prompt"] = random.integers(0, len(self._table.tokens), len(rows))
        rows["to_prefill"], rows["to_decode"] = random.random((2, len(rows)))

    def _routed(self, rows: Rows) -> Rows:
        """To a prefill replica each; without a replica of both groups the router refuses."""
        chosen = _choose(self._prefill.line.accepts, rows["variant"], rows["to_prefill"])
        open_ = (chosen >= 0) & (self._decode.ready() > 0)[rows["variant"]]
        self._refuse(rows[~open_])
        rows["slot"] = rows["source"] = chosen
        return rows[open_]

    def _sent(self, computed: Rows) -> Rows:
        """To a decode replica each; where there is none any more the request fails."""
        rows = computed.copy()
        rows["at"] = rows["ends"]
        rows["slot"] = _choose(self.queues.accepts, rows["variant"], rows["to_decode"])
        self._refuse(rows[rows["slot"] < 0])
        return rows[rows["slot"] >= 0]

    def _decoded(self, arrived: Rows, begin: float) -> tuple[Floats, Floats, Floats]:
        """(TTFT, its part from the cache's arrival on, TPOT) of what comes to decode in a tick."""
        steps = TICK_SECONDS // self._seconds
        shape = (steps, *self.queues.running.shape)
        step = np.clip(((arrived["ends"] - begin) // self._seconds).astype(np.int64), 0, steps - 1)
        cells = np.ravel_multi_index((step, arrived["variant"], arrived["slot"]), shape)
        number = np.bincount(cells, minlength=int(np.prod(shape))).astype(np.int64)
        before = Before(
            milliseconds=((arrived["ends"] - arrived["since"]) * 1e3)[np.argsort(cells, kind="stable")],
            first=(np.cumsum(number) - number).reshape(shape),
            number=number.reshape(shape),
        )
        records: list[StepRecord] = [self.queues.take(came) for came in before.number]
        return self._sampler.histograms_after(records, before)

    def _refuse(self, rows: Rows) -> None:
        self._count["refused"] += self._by_variant(rows)

    def _by_variant(self, rows: Rows) -> Counts:
        return np.bincount(rows["variant"], minlength=len(self._own)).astype(np.int64)

    # What is seen of it.

    @property
    def returning(self) -> Counts:
        """Requests that are asked again in the next tick, by variant."""
        found = self._asked_again.copy()
        for rows in self._again:
            found += self._by_variant(rows)
        return found

    def standing(self) -> Standing:
        """Of the whole model."""
        counted, queues, now = self._count, self.queues.standing(), self._now
        moving = self._by_variant(self.caches.rows)
        running, waiting = self.prompts.running(now), self.prompts.waiting(now)
        return Standing(
            arrived=counted["arrived"],
            served=queues.served,
            refused=counted["refused"] + queues.refused,
            interrupted=counted["interrupted"] + queues.interrupted,
            held=queues.held,
            in_flight=running + waiting + moving + queues.in_flight + self.returning,
            running=running + queues.running,
            waiting=waiting + moving + queues.waiting,
        )

    def _standing_of_prefill(self) -> Standing:
        """What it has served is with decode, or on its way there."""
        counted, now = self._count, self._now
        running, waiting = self.prompts.running(now), self.prompts.waiting(now)
        moving = self._by_variant(self.caches.rows)
        served = counted["handed"] + moving
        return Standing(
            arrived=served + counted["refused"] + running + waiting,
            served=served,
            refused=counted["refused"],
            interrupted=counted["interrupted"],
            held=np.zeros_like(moving),
            in_flight=running + waiting,
            running=running,
            waiting=waiting,
        )

    def _record(self, tick: int, ttft: tuple[Floats, Floats, Floats], tpot: Floats) -> None:
        second, none = tick * TICK_SECONDS, np.zeros_like(tpot)
        ready, wanted = ([group.ready() for group in self.groups], [np.array(group.wanted) for group in self.groups])
        self._whole.add(
            second,
            TICK_SECONDS,
            self.standing(),
            ttft[0],
            tpot,
            ready=ready[0] + ready[1],
            wanted=wanted[0] + wanted[1],
        )
        prefill, decode = self._parts
        prefill.add(second, TICK_SECONDS, self._standing_of_prefill(), ttft[1], none, ready=ready[0], wanted=wanted[0])
        decode.add(second, TICK_SECONDS, self.queues.standing(), ttft[2], tpot, ready=ready[1], wanted=wanted[1])
        self._prefill.watch(tick, ttft[1])
        self._decode.watch(tick, ttft[2])

    def seen(self, group: Group, variant: int, now: float) -> Observation:
        """What the metrics say of one group."""
        if group is self._decode:
            return observed(group, self.queues, variant, now)
        return Observation(
            second=now,
            waiting=int(self.prompts.waiting(now)[variant]),
            running=int(self.prompts.running(now)[variant]),
            ttft_p99_seconds=float(group.ttft_p99_seconds[variant]),
            replicas=group.wanted[variant],
            ready=int(group.ready()[variant]),
        )

    def result(self, variant: int) -> ModelResult:
        """Everything about one variant, the two groups told apart."""
        served = self._served
        standings = (self._standing_of_prefill(), self.queues.standing())
        parts = tuple(
            GroupResult(
                role=role,
                result=recorder.result(
                    variant,
                    group.plans[variant].name,
                    standing,
                    (objective, served.tpot_objective_ms),
                    gpus=group.plans[variant].layout.gpus,
                ),
            )
            for role, group, recorder, standing, objective in zip(
                ("prefill", "decode"), self.groups, self._parts, standings, served.ttft_parts_ms, strict=True
            )
        )
        objectives = (served.ttft_objective_ms, served.tpot_objective_ms)
        whole = self._whole.result(variant, self._asked.model, self.standing(), objectives, gpus=0)
        return replace(
            whole,
            gpu_hours=sum(part.result.gpu_hours for part in parts),
            groups=parts,
            transfer=TransferResult(
                p50_ms=known(quantile(self._transfers[variant], 0.5)),
                p99_ms=known(quantile(self._transfers[variant], 0.99)),
                caches=int(self._count["handed"][variant]),
                tokens=float(self.handed_tokens[variant]),
                gigabytes=float(self._gigabytes[variant]),
            ),
        )


_COUNTED = ("arrived", "refused", "interrupted", "handed")


def _choose(accepts: Flags, variant: Counts, chance: Floats) -> Counts:
    """A replica that accepts for each request of these variants; -1 where there is none."""
    number = accepts.sum(axis=1)
    order = np.argsort(~accepts, axis=1, kind="stable")  # those that accept come first
    position = (chance * number[variant]).astype(np.int64)
    return np.where(number[variant] > 0, order[variant, position], -1)
