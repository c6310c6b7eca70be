"""A way from this machine's loopback interface to a Service of the cluster, by `kubectl port-forward`.

kubectl, not the Python client: it follows a Service to a ready pod and survives long streams.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Queue
from typing import Final

from ops.errors import MissingError

_FORWARDING = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+)")
_START_SECONDS: Final = 20.0
_END_SECONDS: Final = 5.0


@contextmanager
def forward(kubeconfig: Path, context: str | None, *, namespace: str, service: str, port: int) -> Generator[int]:
    """The local port, while the context is open.

    Raises:
        MissingError: no kubectl, or it could not reach a pod of the Service.
    """
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise MissingError("kubectl is not on PATH; it forwards the port", help="install it, or give --url")
    command = [kubectl, "--kubeconfig", str(kubeconfig), *(["--context", context] if context else [])]
    command += ["--namespace", namespace, "port-forward", "--address", "127.0.0.1", f"service/{service}", f":{port}"]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"
    )
    lines: Queue[str | None] = Queue()
    reader = threading.Thread(target=_read, args=(process, lines), daemon=True)
    reader.start()
    try:
        yield _local_port(lines, f"{namespace}/{service}")
    finally:
        process.terminate()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join(_END_SECONDS)


def _read(process: subprocess.Popen[str], lines: Queue[str | None]) -> None:
    # To the end, or a full pipe would stop kubectl.
    for line in process.stdout or ():
        lines.put(line.strip())
    lines.put(None)


def _local_port(lines: Queue[str | None], service: str) -> int:
    said = ""
    while True:
        try:
            line = lines.get(timeout=_START_SECONDS)
        except Empty:
            raise MissingError(f"kubectl port-forward to {service} did not begin in {_START_SECONDS:.0f} s") from None
        if line is None:
            raise MissingError(
                f"kubectl port-forward to {service} ended: {said or 'without a word'}",
                help="`python -m ops wait` tells whether a pod of it is ready",
            )
        if found := _FORWARDING.search(line):
            return int(found[1])
        said = line
