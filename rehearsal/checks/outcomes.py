"""What became of pods and Jobs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from planner.plan import Plan
from rehearsal.findings import Finding
from rehearsal.kube import Json, key_of
from rehearsal.pods import owned_by, restarts
from rehearsal.snapshot import Snapshot, subject


def jobs(snapshot: Snapshot, plan: Plan) -> Iterator[Finding]:
    """No Job failed, not even one pod of it."""
    waiting_for = {warmup.name: ", ".join(warmup.models) or "no model yet" for warmup in plan.warmups}
    for job in snapshot.all("Job"):
        dead = [pod for pod in snapshot.all("Pod") if owned_by(pod, job) and _exit_code(pod)]
        if not dead and not job.get("status", {}).get("failed"):
            continue
        code, said = (_exit_code(dead[0]), _last_words(dead[0])) if dead else (None, "")
        name = job["metadata"]["name"]
        effect = f"; models that wait for it: {waiting_for[name]}" if name in waiting_for else ""
        yield Finding(
            check="job",
            subject=subject("Job", key_of(job)),
            field="",
            problem=f"failed{'' if code is None else f' with exit code {code}'}{f' ({said})' if said else ''}{effect}",
            remedy="read the log of its pod; for weights, stage the revision again and let its manifest match",
        )


def restarted(snapshot: Snapshot, plan: Plan) -> Iterator[Finding]:  # noqa: ARG001 - the checks' signature
    """No container was killed and started again."""
    for pod in snapshot.all("Pod"):
        if restarts(pod):
            yield Finding(
                check="restart",
                subject=subject("Pod", key_of(pod)),
                field="",
                problem=f"its containers had to be restarted ({restarts(pod)} times)",
                remedy="look at its probes and at its planned start-up time",
            )


def _states(pod: Json) -> Iterator[Any]:
    for status in pod.get("status", {}).get("containerStatuses", ()):
        if terminated := status.get("state", {}).get("terminated"):
            yield terminated


def _exit_code(pod: Json) -> int | None:
    return next((state["exitCode"] for state in _states(pod) if state["exitCode"]), None)


def _last_words(pod: Json) -> str:
    return next((state["message"] for state in _states(pod) if state.get("message")), "")
