"""What logs and numbers say about EFA: pure functions, for the gate in the pods and for `ops efa-test`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]
GIB = 1 << 30
RESULT_MARK = "EFA_RESULT "
"""Before each result that a rank prints."""


def devices_of(fi_info: str) -> set[str]:
    """EFA devices in what `fi_info -p efa` printed; each has several endpoints (`rdmap79s0-rdm`, `-dgrm`)."""
    domains = re.findall(r"^\s*domain:\s*(\S+)", fi_info, re.MULTILINE)
    return {re.sub(r"-(rdm|dgrm|direct)$", "", domain) for domain in domains}


@dataclass(frozen=True)
class NcclReport:
    """What NCCL's log (NCCL_DEBUG=INFO, subsystems INIT and NET) says about the network between nodes."""

    providers: frozenset[str] = frozenset()
    """libfabric's providers that aws-ofi-nccl selected, one line a process."""
    networks: frozenset[str] = frozenset()
    """What processes took in the end: `AWS Libfabric`, `Libfabric`, `Socket`, `IB`."""
    gdr: bool = False
    """Whether a channel between nodes uses GPUDirect RDMA."""
    warnings: tuple[str, ...] = ()


def read_nccl(log: str) -> NcclReport:
    """Reads the log of all processes of a node. Spelling differs: `Selected Provider` before aws-ofi-nccl 1.8."""
    networks = {found.strip() for found in re.findall(r"Using network ([\w ]+)", log)}
    networks |= set(re.findall(r"via NET/((?:AWS )?Libfabric|Socket|IB)/", log))
    return NcclReport(
        providers=frozenset(re.findall(r"NET/OFI Selected [Pp]rovider is ([\w;-]+)", log)),
        networks=frozenset(networks),
        gdr=bool(re.search(r"via NET/(?:AWS )?Libfabric/\d+[^\n]*GDRDMA", log)),
        warnings=tuple(dict.fromkeys(re.findall(r"NCCL WARN (.+)", log)))[:3],
    )


def nccl_problem(report: NcclReport, *, gdr: bool) -> str | None:
    """Why this is no EFA; None where it is."""
    said = f" (NCCL: {'; '.join(report.warnings)})" if report.warnings else ""
    if "Socket" in report.networks:
        return f"NCCL fell back to TCP (NET/Socket): the plugin aws-ofi-nccl was not found or not usable{said}"
    foreign = sorted(report.providers - {"efa"})
    if foreign:
        return f"aws-ofi-nccl selected the provider {', '.join(foreign)} in place of efa{said}"
    if "efa" not in report.providers:
        took = f"took {', '.join(sorted(report.networks))}" if report.networks else "named no network"
        return f"NCCL's log has no `Selected provider is efa`; it {took}{said}"
    if gdr and not report.gdr:
        return f"no channel between nodes uses GPUDirect RDMA, which this instance type has{said}"
    return None


def devices_problem(found: Iterable[str], expected: int) -> str | None:
    """Whether libfabric sees as many devices as the pod was given."""
    names = sorted(found)
    if len(names) >= expected:
        return None
    seen = f": {', '.join(names)}" if names else ""
    return f"fi_info -p efa shows {len(names)} of {expected} devices{seen}"


def speed_problem(results: Sequence[Json], floor: float | None) -> str | None:
    """Whether the all-reduce of 1 GiB (or the largest one) reaches the floor, and was right."""
    if not results:
        return "the all-reduce gave no result"
    wrong = [result["size"] for result in results if result.get("wrong")]
    if wrong:
        return f"the all-reduce of {wrong[0]} bytes gave wrong sums"
    judged = next((result for result in results if result["size"] == GIB), max(results, key=lambda one: one["size"]))
    if floor is not None and judged["busbw"] < floor:
        return f"bus bandwidth of {judged['busbw']:.1f} GB/s is below the floor of {floor:g} GB/s"
    return None


def bus_bandwidth(size: int, seconds: float, ranks: int) -> tuple[float, float]:
    """(algorithm, bus) bandwidth of an all-reduce in GB/s, as nccl-tests counts them (doc/PERFORMANCE.md)."""
    algorithm = size / seconds / 1e9
    return algorithm, algorithm * 2 * (ranks - 1) / ranks
