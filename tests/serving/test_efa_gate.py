"""The EFA gate on recorded NCCL logs, and whole groups of it on this machine: real processes, real sockets.

`nccl-socket.txt` and `nccl-no-plugin.txt` are of NCCL 2.28.9 between two GPUs that were told to be two hosts; the EFA
lines are those that public logs of aws-ofi-nccl show. A stand-in for torch plays the ranks: it prints one of the logs.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from components.scripts.efa import findings
from components.scripts.efa.findings import GIB, NcclReport, nccl_problem, read_nccl
from components.scripts.efa.group import AloneError, Group, PeerLostError
from components.scripts.efa.memory import Memory, key_of

DATA = Path(__file__).parent / "data"
SCRIPTS = Path(findings.__file__).parents[1]
EFA = (DATA / "nccl-efa.txt").read_text()
TCP = (DATA / "nccl-socket.txt").read_text()
NO_PLUGIN = (DATA / "nccl-no-plugin.txt").read_text()


# --- Findings -------------------------------------------------------------------------------------------------------


def test_every_device_counts_once_however_many_endpoints_it_has() -> None:
    listing = (DATA / "fi_info-p5.txt").read_text()
    assert listing.count("domain:") == 64
    devices = findings.devices_of(listing)
    assert len(devices) == 32
    assert findings.devices_problem(devices, 32) is None
    problem = findings.devices_problem(sorted(devices)[:31], 32)
    assert problem is not None
    assert problem.startswith("fi_info -p efa shows 31 of 32 devices: rdmap")
    assert findings.devices_problem(findings.devices_of(""), 4) == "fi_info -p efa shows 0 of 4 devices"


def test_a_healthy_log() -> None:
    assert read_nccl(EFA) == NcclReport(
        providers=frozenset({"efa"}), networks=frozenset({"AWS Libfabric"}), gdr=True, warnings=()
    )
    assert nccl_problem(read_nccl(EFA), gdr=True) is None


@pytest.mark.parametrize(
    "line",
    [
        "ip-10-1-14-81:6158:9214 [2] NCCL INFO NET/OFI Selected Provider is efa (found 4 nics)",
        "node-0:188:585 [0] NCCL INFO NET/OFI Selected provider is efa, fabric is efa (found 1 nics)",
        "node-0:188:585 [0] NCCL INFO NET/OFI Selected provider is efa, fabric is efa-direct (found 16 nics)",
    ],
)
def test_spellings_of_the_provider(line: str) -> None:
    assert nccl_problem(read_nccl(line), gdr=False) is None


@pytest.mark.parametrize(
    ("log", "words"),
    [
        (TCP, r"fell back to TCP \(NET/Socket\)"),
        (
            NO_PLUGIN,
            r"no `Selected provider is efa`; it named no network \(NCCL: Failed to initialize any NET",
        ),
        ("", "named no network"),
        (EFA.replace("provider is efa, fabric is efa-direct", "provider is tcp"), "provider tcp in place of efa"),
        (EFA.replace("/GDRDMA", ""), "GPUDirect RDMA"),
        # One of eight ranks fell back: the other lines do not hide it.
        (EFA * 7 + TCP, "fell back to TCP"),
    ],
    ids=["tcp", "no plugin", "silence", "other provider", "no GPUDirect", "one rank"],
)
def test_what_is_no_efa(log: str, words: str) -> None:
    problem = nccl_problem(read_nccl(log), gdr=True)
    assert problem is not None
    assert re.search(words, problem), problem


def test_speed_is_judged_at_one_gibibyte() -> None:
    small = {"size": 1024, "busbw": 0.1, "wrong": 0}
    large = {"size": GIB, "busbw": 437.0, "wrong": 0}
    assert findings.speed_problem([small, large], 218.5) is None
    assert "12.1 GB/s is below the floor of 218.5" in str(
        findings.speed_problem([small, {**large, "busbw": 12.1}], 218.5)
    )
    assert "0.1 GB/s" in str(findings.speed_problem([small], 218.5))
    assert findings.speed_problem([{**large, "busbw": 1.0}], None) is None
    assert "wrong sums" in str(findings.speed_problem([{**large, "wrong": 7}], None))
    assert "no result" in str(findings.speed_problem([], None))


def test_bandwidth_is_counted_as_nccl_tests_does() -> None:
    """2 x p5 at 1 GiB: 4607.6 us, 233.04 and 436.95 GB/s (the published table that the catalog cites)."""
    algorithm, bus = findings.bus_bandwidth(GIB, 4607.6e-6, 16)
    assert (round(algorithm, 2), round(bus, 2)) == (233.04, 436.94)


# --- Memory ---------------------------------------------------------------------------------------------------------


def test_a_proof_holds_for_the_same_machines_since_their_boot(tmp_path: Path) -> None:
    memory = Memory(tmp_path, 3600)
    key = key_of(["boot-a", "boot-b"], "image:1")
    assert key == key_of(["boot-b", "boot-a"], "image:1"), "ranks may be exchanged"
    assert key != key_of(["boot-a", "boot-c"], "image:1")
    assert key != key_of(["boot-a", "boot-b"], "image:2")
    memory.remember(key, None)
    assert memory.passed() == [key]
    assert Memory(tmp_path, 0).passed() == []


def test_failures_add_up_until_one_passes(tmp_path: Path) -> None:
    memory = Memory(tmp_path, 3600)
    memory.remember("a", "no plugin")
    memory.remember("a", "too slow")
    assert memory.failures("a") == (2, "too slow")
    assert memory.given_up(3) == {}
    memory.remember("a", "too slow")
    assert memory.given_up(3) == {"a": "too slow"}
    memory.remember("a", None)
    assert memory.given_up(1) == {}


def test_a_directory_that_cannot_be_written_or_read_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    broken = Memory(tmp_path / "file" / "below", 3600)
    broken.remember("a", None)
    assert broken.passed() == []
    (tmp_path / "x.json").write_text("{")
    assert Memory(tmp_path, 3600).passed() == []
    Memory(None, 3600).remember("a", None)


# --- The group ------------------------------------------------------------------------------------------------------


def free_port() -> int:
    """A port whose successor is free as well: NCCL's rendezvous."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as one:
            port: int = one.getsockname()[1]
            try:
                socket.create_server(("127.0.0.1", port + 1)).close()
            except OSError:
                continue
            return port


def members(size: int) -> list[Group]:
    port = free_port()
    return [Group(rank, size, "127.0.0.1", port) for rank in range(size)]


def together(groups: list[Group], messages: list[dict[str, Any]]) -> list[Any]:
    heard: list[Any] = [None] * len(groups)

    def one(index: int) -> None:
        try:
            heard[index] = groups[index].meet(messages[index], time.monotonic() + 10)
        except (AloneError, PeerLostError) as error:
            heard[index] = error

    threads = [threading.Thread(target=one, args=(index,)) for index in range(len(groups))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return heard


def test_every_pod_hears_what_every_pod_said() -> None:
    groups = members(3)
    heard = together(groups, [{"node": name} for name in "abc"])
    assert [[one["node"] for one in each] for each in heard] == [["a", "b", "c"]] * 3
    answers: list[Any] = [None] * 3

    def next_round(rank: int) -> None:
        answers[rank] = groups[rank].round({"n": rank}, 10)

    threads = [threading.Thread(target=next_round, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert answers == [[{"n": 0}, {"n": 1}, {"n": 2}]] * 3
    groups[1].close()
    with pytest.raises(PeerLostError):
        groups[0].round({}, 5)
    for group in groups:
        group.close()


def test_a_pod_that_was_made_anew_takes_its_place_again() -> None:
    leader, worker = members(2)
    lost = socket.socket()

    def stranger_and_predecessor() -> None:
        for content in (b"GET / HTTP/1.1\r\n\r\n", b'{"rank": 9}\n', b"[]\n"):
            link = connected(leader.port)
            link.sendall(content)
            link.close()
        nonlocal lost
        lost = connected(leader.port)
        lost.sendall(b'{"rank": 1, "node": "old"}\n')
        lost.close()

    threading.Thread(target=stranger_and_predecessor).start()
    late = threading.Timer(2.5, lambda: worker.meet({"node": "new"}, time.monotonic() + 10))
    late.start()
    size_three = Group(0, 3, "", leader.port)
    with pytest.raises(AloneError, match=r"\[1, 2\]|\[2\]"):
        size_three.meet({"node": "leader"}, time.monotonic() + 1.5)
    heard = leader.meet({"node": "leader"}, time.monotonic() + 10)
    late.join()
    assert [one["node"] for one in heard] == ["leader", "new"]
    leader.close()
    worker.close()


def connected(port: int) -> socket.socket:
    for _ in range(100):
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=5)
        except OSError:
            time.sleep(0.05)
    raise AssertionError("nobody listens")


def test_a_leader_that_nobody_joins_says_who_is_missing() -> None:
    with pytest.raises(AloneError, match=r"pods \[1\] of the group's 2"):
        Group(0, 2, "", free_port()).meet({}, time.monotonic() + 0.1)
    with pytest.raises(AloneError, match="does not answer"):
        Group(1, 2, "127.0.0.1", free_port()).meet({}, time.monotonic() + 0.1)


# --- Whole pods -----------------------------------------------------------------------------------------------------

TORCH = """
import os, sys, time
float32 = "float32"
class _Tensor:
    def __init__(self, count): self.count = count
    def __ne__(self, other): return self
    def sum(self): return self
    def item(self): return int(os.environ.get("FAKE_WRONG", "0"))
    def zero_(self): pass
    def numel(self): return self.count
def ones(count, dtype, device): return _Tensor(count)
def device(kind, index): return (kind, index)
class cuda:
    @staticmethod
    def set_device(device): pass
    @staticmethod
    def synchronize(): pass
"""
DISTRIBUTED = """
import os, socket, sys, time
_state = {}
def init_process_group(backend, timeout, device_id):
    with open(os.environ["FAKE_STARTS"], "a") as file: file.write(os.environ["RANK"] + "\\n")
    sys.stdout.write(open(os.environ["FAKE_NCCL_LOG"]).read())
    if "NCCL WARN" in open(os.environ["FAKE_NCCL_LOG"]).read():
        raise RuntimeError("NCCL error")
def get_world_size(): return int(os.environ["WORLD_SIZE"])
def get_rank(): return int(os.environ["RANK"])
def all_reduce(tensor): time.sleep(float(os.environ["FAKE_SECONDS"]))
def barrier(): pass
def destroy_process_group(): pass
"""


class Node:
    """One pod's side of the gate: its own state directory, its own fi_info."""

    def __init__(self, folder: Path, rank: int, *, devices: int = 4) -> None:
        self.folder, self.rank = folder, rank
        self.folder.mkdir()
        (folder / "bin").mkdir()
        tool = folder / "bin" / "fi_info"
        lines = "".join(f"    domain: rdmap{index}s0-rdm\n" for index in range(devices))
        tool.write_text(f"#!/bin/sh\ncat <<'LIST'\nprovider: efa\n{lines}LIST\n")
        tool.chmod(0o755)
        (folder / "torch").mkdir()
        (folder / "torch" / "__init__.py").write_text(TORCH)
        (folder / "torch" / "distributed.py").write_text(DISTRIBUTED)
        self.starts = folder / "starts"
        self.message = folder / "termination-log"

    def start(self, port: int, *, log: str = "nccl-efa.txt", seconds: float = 0.001, **options: Any) -> Any:
        given = {"devices": 4, "gpus": 2, "nodes": 2, "floor": 100, "timeout": 20, "peers_timeout": 20, "attempts": 1}
        line = [f"--{key.replace('_', '-')}={value}" for key, value in (given | options).items() if value is not None]
        line += [f"--rank={self.rank}", "--leader=127.0.0.1", f"--port={port}", f"--state={self.folder / 'state'}"]
        environment = {
            **os.environ,
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(self.folder),
            "NODE_NAME": f"node-{self.rank}",
            "TERMINATION_LOG": str(self.message),
            "FAKE_STARTS": str(self.starts),
            "FAKE_NCCL_LOG": str(DATA / log),
            "FAKE_SECONDS": str(seconds),
        }
        command = [sys.executable, "-m", "efa.gate", "--gdr", "--pause=0", *line]
        return subprocess.Popen(
            command, cwd=SCRIPTS, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )


def ended(*running: Any) -> list[tuple[int, str]]:
    return [(one.returncode, text) for one in running for text in [one.communicate(timeout=60)[0]]]


@pytest.fixture
def nodes(tmp_path: Path) -> tuple[Node, Node]:
    return Node(tmp_path / "a", 0), Node(tmp_path / "b", 1)


def test_a_group_on_efa_passes_and_needs_no_second_proof(nodes: tuple[Node, Node]) -> None:
    port = free_port()
    first = ended(*(node.start(port) for node in nodes))
    assert [code for code, _ in first] == [0, 0], first
    assert "EFA on all 2 nodes" in first[0][1]
    assert sorted(nodes[0].starts.read_text().split()) == ["0", "1"]
    again = ended(*(node.start(port) for node in nodes))
    assert [code for code, _ in again] == [0, 0]
    assert "have proved it" in again[1][1]
    assert len(nodes[0].starts.read_text().split()) == 2, "no GPU was used again"
    other_image = ended(*(node.start(port, image="engine:2") for node in nodes))
    assert [code for code, _ in other_image] == [0, 0]
    assert len(nodes[0].starts.read_text().split()) == 4


def test_a_fall_back_to_tcp_on_one_node_fails_every_pod_and_is_given_up(nodes: tuple[Node, Node]) -> None:
    port = free_port()
    logs = ("nccl-efa.txt", "nccl-socket.txt")
    failed = ended(*(node.start(port, log=log, attempts=2) for node, log in zip(nodes, logs, strict=True)))
    assert [code for code, _ in failed] == [1, 1]
    for node in nodes:
        assert "node node-1: NCCL fell back to TCP" in node.message.read_text()
    assert len(nodes[1].starts.read_text().split()) == 4, "two tries of two ranks"
    # The next time the pods rest, and leave the GPUs alone.
    failed = ended(*(node.start(port, attempts=2, hold=0) for node in nodes))
    assert [code for code, _ in failed] == [1, 1]
    assert "given up after 2 failures" in nodes[0].message.read_text()
    assert len(nodes[1].starts.read_text().split()) == 4


def test_too_slow(nodes: tuple[Node, Node]) -> None:
    failed = ended(*(node.start(free, seconds=0.05) for free in [free_port()] for node in nodes))
    assert [code for code, _ in failed] == [1, 1]
    assert "below the floor of 100 GB/s" in nodes[1].message.read_text(), "the worker hears it from the leader"


def test_a_start_of_nccl_that_fails(nodes: tuple[Node, Node]) -> None:
    failed = ended(*(node.start(free, log="nccl-no-plugin.txt") for free in [free_port()] for node in nodes))
    assert [code for code, _ in failed] == [1, 1]
    assert "Failed to initialize any NET plugin" in nodes[0].message.read_text()


def test_a_missing_device_fails_all_before_any_gpu_is_used(tmp_path: Path) -> None:
    whole, poor = Node(tmp_path / "a", 0), Node(tmp_path / "b", 1, devices=3)
    failed = ended(*(node.start(free) for free in [free_port()] for node in (whole, poor)))
    assert [code for code, _ in failed] == [1, 1]
    assert "node node-1: fi_info -p efa shows 3 of 4 devices" in whole.message.read_text()
    assert not whole.starts.exists()


def test_all_reduce_that_hangs_is_ended(nodes: tuple[Node, Node]) -> None:
    started = time.monotonic()
    failed = ended(*(node.start(free, seconds=60, timeout=2) for free in [free_port()] for node in nodes))
    assert [code for code, _ in failed] == [1, 1]
    assert "did not end within 2 s" in nodes[0].message.read_text()
    assert time.monotonic() - started < 30


def test_nobody_else_came(nodes: tuple[Node, Node]) -> None:
    (alone,) = ended(nodes[0].start(free_port(), peers_timeout=1))
    assert alone[0] == 4
    assert "pods [1]" in nodes[0].message.read_text()


def test_devices_alone_need_no_group(tmp_path: Path) -> None:
    node, poor = Node(tmp_path / "a", 0), Node(tmp_path / "b", 0, devices=0)
    results = ended(*(one.start(free_port(), mode="provider", nodes=1) for one in (node, poor)))
    assert [code for code, _ in results] == [0, 1]
    assert "0 of 4 devices" in poor.message.read_text()
    (poor.folder / "bin" / "fi_info").unlink()
    if not Path("/opt/amazon/efa/bin/fi_info").exists():
        (no_tool,) = ended(poor.start(free_port(), mode="provider", nodes=1, attempts=3, hold=0))
        assert no_tool[0] == 1
        assert "carries no EFA software" in poor.message.read_text()
