"""Proves that a group of pods talks EFA before its engine starts; the group's pods stay unready where it does not.

Runs in the engine's own image, as an init container of every pod, with the standard library; the all-reduce itself
needs torch. Each pod looks at its own devices (`fi_info`), tells the others over a socket what it found, and then all
GPUs of the group make one short all-reduce, which must be fast and whose NCCL log must say "Selected provider is efa".
What was proved is kept on the node for these very machines (their boot ids) and this image, so that a restart needs no
second proof.

Exit codes: 0 proved; 1 not on EFA, or too slow, said in the termination message; 4 the other pods did not come.
After some failures of the same machines the GPUs are left alone: another try would find the same.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .findings import GIB, RESULT_MARK, devices_of, devices_problem, nccl_problem, read_nccl, speed_problem
from .group import AloneError, Group, PeerLostError
from .memory import Memory, key_of

Json = dict[str, Any]
EXIT_FAILED, EXIT_ALONE = 1, 4
_MESSAGE_LIMIT = 2000


class NoProofError(Exception):
    """The group is not on EFA, or not fast enough; the message says what was found."""


class GivenUpError(NoProofError):
    """These machines have failed too often for another try."""


def check_devices(expected: int) -> str | None:
    """What libfabric sees of this pod's devices; None where all is well."""
    tool = shutil.which("fi_info") or shutil.which("fi_info", path="/opt/amazon/efa/bin")
    if tool is None:
        return "the image has no fi_info: it carries no EFA software (images/README.md)"
    try:
        done = subprocess.run(
            [tool, "-p", "efa", "-t", "FI_EP_RDM"], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"fi_info -p efa: {error}"
    problem = devices_problem(devices_of(done.stdout), expected)
    said = done.stderr.strip().splitlines()
    return f"{problem} ({said[-1]})" if problem and said else problem


def all_reduce(options: argparse.Namespace) -> tuple[list[Json], str | None]:
    """Runs this node's ranks; gives the results (on the first node) and what is wrong with the node's NCCL log."""
    environment = {
        **os.environ,
        "MASTER_ADDR": options.leader,
        "MASTER_PORT": str(options.port + 1),
        "WORLD_SIZE": str(options.nodes * options.gpus),
        "NCCL_DEBUG": "INFO",
        "NCCL_DEBUG_SUBSYS": "INIT,NET",
    }
    package = Path(__file__).parent
    command = [sys.executable, "-m", f"{package.name}.rank", options.sizes, str(options.timeout)]
    with tempfile.TemporaryDirectory() as folder:
        ranks: list[subprocess.Popen[bytes]] = []
        for index in range(options.gpus):
            rank = str(options.rank * options.gpus + index)
            with (Path(folder) / f"{index:03}.log").open("wb") as output:
                ranks.append(
                    subprocess.Popen(
                        command,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        cwd=package.parent,
                        env={**environment, "RANK": rank, "LOCAL_RANK": str(index)},
                        start_new_session=True,
                    )
                )
        late = _wait(ranks, options.timeout)
        text = "\n".join(path.read_text(errors="replace") for path in sorted(Path(folder).iterdir()))
    sys.stdout.write(text)
    results = [json.loads(line[len(RESULT_MARK) :]) for line in text.splitlines() if line.startswith(RESULT_MARK)]
    problem = nccl_problem(read_nccl(text), gdr=options.gdr)
    if problem is None and late:
        problem = f"the all-reduce did not end within {options.timeout} s"
    codes = sorted({rank.returncode for rank in ranks} - {0})
    if problem is None and codes:
        problem = f"a rank ended with {codes[0]}: {_last_error(text)}"
    return results, problem


def _wait(ranks: Sequence[subprocess.Popen[bytes]], seconds: float) -> bool:
    """Waits for all; ends them where time is up, or soon after one of them failed. True: time was up."""
    deadline = time.monotonic() + seconds
    while any(rank.poll() is None for rank in ranks) and time.monotonic() < deadline:
        if any(rank.returncode for rank in ranks):  # the others wait for it in vain, but may still say why
            deadline = min(deadline, time.monotonic() + 15)
        time.sleep(0.2)
    late = [rank for rank in ranks if rank.poll() is None]
    failed = any(rank.returncode for rank in ranks)
    for rank in late:
        os.killpg(rank.pid, signal.SIGKILL)
        rank.wait()
    return bool(late) and not failed


def _last_error(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if re.match(r"\s*[\w.]*(Error|Exception)\b", line)]
    return lines[-1][:300] if lines else "its log is above"


def gate(options: argparse.Namespace, memory: Memory) -> str:
    """The whole check; gives what was proved, in words.

    Raises:
        NoProofError: the group is not on EFA.
        AloneError: the group is not complete.
    """
    boot = _boot_id()
    own = key_of([boot], "devices", options.image, options.devices)
    _rest(memory.given_up(options.attempts).get(own), options)
    problem = check_devices(options.devices)
    memory.remember(own, problem)
    if options.mode == "provider" or options.nodes < 2:
        if problem:
            raise NoProofError(problem)
        return f"{options.devices} EFA devices"
    mine = {"node": options.node, "boot": boot, "problem": problem, "passed": memory.passed()}
    mine["given_up"] = dict(memory.given_up(options.attempts))
    group = Group(options.rank, options.nodes, options.leader, options.port)
    deadline = time.monotonic() + options.peers_timeout
    while True:
        try:
            return _group_gate(options, memory, group, mine, deadline)
        except PeerLostError as error:
            log(f"a pod of the group went away ({error}); waiting for it again")
        finally:
            group.close()


def _group_gate(options: argparse.Namespace, memory: Memory, group: Group, mine: Json, deadline: float) -> str:
    everyone = group.meet(mine, deadline)
    key = key_of([one["boot"] for one in everyone], "all-reduce", options.image, options.devices, options.floor)
    problem = _first_problem(everyone)
    if problem is None and all(key in one["passed"] for one in everyone):
        return "these machines have proved it since they booted"
    if problem is None:
        _rest(next((one["given_up"][key] for one in everyone if key in one["given_up"]), None), options)
        results, found = all_reduce(options)
        if options.rank == 0:
            found = found or speed_problem(results, options.floor)
        measured = group.round({"node": options.node, "problem": found, "results": results}, options.timeout + 60)
        problem = _first_problem(measured)
        memory.remember(key, problem)
        if problem is None:
            best = measured[0]["results"][-1]
            return f"EFA on all {options.nodes} nodes, {best['busbw']:.1f} GB/s bus bandwidth"
    raise NoProofError(problem)


def _first_problem(everyone: Sequence[Json]) -> str | None:
    return next((f"node {one['node']}: {one['problem']}" for one in everyone if one.get("problem")), None)


def _rest(reason: str | None, options: argparse.Namespace) -> None:
    """Where these machines failed too often, holds the pod for a while and fails it, without touching its GPUs."""
    if reason is None:
        return
    message = f"given up after {options.attempts} failures of the same machines and image; the last: {reason}"
    tell(message)
    time.sleep(options.hold)
    raise GivenUpError(message)


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def log(text: str) -> None:
    """One line for `kubectl logs`."""
    sys.stdout.write(f"efa-gate: {text}\n")
    sys.stdout.flush()


def tell(text: str) -> None:
    """What `kubectl describe pod` shows."""
    log(text)
    try:
        Path(os.environ.get("TERMINATION_LOG", "/dev/termination-log")).write_text(f"{text[:_MESSAGE_LIMIT]}\n")
    except OSError as error:
        log(f"no termination message: {error}")


def arguments(line: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=("all_reduce", "provider"), default="all_reduce")
    parser.add_argument("--devices", type=int, default=0, help="EFA devices that the pod was given")
    parser.add_argument("--gpus", type=int, default=1)
    parser.add_argument("--nodes", type=int, default=1, help="pods of the group")
    parser.add_argument("--rank", type=int, default=0, help="this pod among them")
    parser.add_argument("--leader", default="", help="name of the first pod")
    parser.add_argument("--port", type=int, default=20010, help="on the leader; the next one is NCCL's rendezvous")
    parser.add_argument("--floor", type=float, help="least bus bandwidth in GB/s")
    parser.add_argument("--gdr", action="store_true", help="NCCL must report GPUDirect RDMA")
    parser.add_argument("--sizes", default=str(GIB), help="bytes, separated by commas")
    parser.add_argument("--timeout", type=int, default=600, help="seconds for the all-reduce")
    parser.add_argument("--peers-timeout", type=int, default=86400, help="seconds that the others may take to come")
    parser.add_argument("--attempts", type=int, default=3, help="tries, here and over restarts")
    parser.add_argument("--pause", type=float, default=20, help="seconds between tries")
    parser.add_argument("--hold", type=int, default=600, help="seconds of rest where it has been given up")
    parser.add_argument("--keep", type=int, default=86400, help="seconds that an outcome is remembered")
    parser.add_argument("--state", type=Path, help="directory of the node that remembers")
    parser.add_argument("--image", default="", help="what the proof holds for")
    parser.add_argument("--node", default=os.environ.get("NODE_NAME") or socket.gethostname())
    return parser.parse_args(line)


def main(line: Sequence[str] | None = None) -> int:
    """Runs the gate."""
    options = arguments(line)
    memory = Memory(options.state, options.keep)
    problem = ""
    # Tries are made here and not by restarts: LeaderWorkerSet recreates a group whose init containers had any.
    for attempt in range(1, options.attempts + 1):
        try:
            log(gate(options, memory))
            return 0
        except GivenUpError as error:
            problem = str(error)
            break
        except NoProofError as error:
            problem = str(error)
            log(f"try {attempt} of {options.attempts}: {problem}")
        except AloneError as error:
            tell(str(error))
            return EXIT_ALONE
        if attempt < options.attempts:
            time.sleep(options.pause)
    tell(f"not on EFA: {problem}")
    return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
