"""`python -m rehearsal.controlplane up|down`: a control plane to look around in, without a rehearsal."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import signal
import sys
import time
from collections.abc import Generator
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
import urllib3

from rehearsal import crds
from rehearsal.controlplane import binaries, pins
from rehearsal.controlplane.api import ApiError
from rehearsal.controlplane.cluster import ControlPlane, owner
from rehearsal.controlplane.errors import ControlPlaneError
from rehearsal.controlplane.keda import KedaProcesses
from rehearsal.controlplane.metrics import MetricsStandIn

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)

_WATCH_SECONDS = 1.0
_END_SECONDS = 20.0
# What a shell reports for a program that ended by SIGTERM.
_TERMINATED = 128 + signal.SIGTERM


@app.command()
def up(
    *,
    kubernetes: Annotated[str, typer.Option(help="Minor version of Kubernetes.")] = "1.35",
    port: Annotated[int | None, typer.Option(help="Port of the API server; a free one by default.")] = None,
    crd_dir: Annotated[Path | None, typer.Option(envvar="CRD_DIR", help="CRDs to install.")] = None,
    keda: Annotated[bool, typer.Option("--keda", help="Run KEDA, too (needs its CRDs).")] = False,
) -> None:
    """Start a control plane and keep it until Ctrl-C or `down`."""
    signal.signal(signal.SIGTERM, _exit)
    directory = _directory()
    with _told(), contextlib.ExitStack() as stack:
        made = binaries.ensure(kubernetes, _say)
        keda_made = binaries.ensure_keda(_say) if keda else None
        plane = stack.enter_context(
            ControlPlane.start(directory, made, token=secrets.token_urlsafe(), progress=_say, port=port)
        )
        if made.note:
            _say(made.note)
        if crd_dir is not None:
            definitions = crds.load([crd_dir])
            _say(f"Installing {len(definitions)} CRDs")
            crds.install(plane.api, definitions)
        if keda_made is not None:
            metrics = stack.enter_context(MetricsStandIn())
            stack.enter_context(KedaProcesses.start(plane, keda_made, proxy=metrics.url, progress=_say))
        typer.echo(f"export KUBECONFIG={shlex.quote(str(plane.kubeconfig))}")
        _say("Ctrl-C ends it.")
        while True:
            plane.check()
            time.sleep(_WATCH_SECONDS)


@app.command()
def down() -> None:
    """End the control plane that `up` started in another terminal."""
    process = owner(_directory())
    if process is None:
        _say("None is running.")
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGTERM)
    until = time.monotonic() + _END_SECONDS
    while owner(_directory()) == process and time.monotonic() < until:
        time.sleep(0.1)
    _say("Ended." if owner(_directory()) is None else f"Process {process} is still ending.")


def _directory() -> Path:
    return pins.cache_directory() / "run"


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _exit(_number: int, _frame: FrameType | None) -> None:
    sys.exit(_TERMINATED)


@contextlib.contextmanager
def _told() -> Generator[None]:
    """Tell failures in words, without a traceback."""
    try:
        yield
    except ControlPlaneError as error:
        _say(f"{error.what}\n{error.remedy}")
        raise typer.Exit(1) from error
    except (ApiError, urllib3.exceptions.HTTPError) as error:
        _say(f"The API server refused: {error}")
        raise typer.Exit(1) from error
    except KeyboardInterrupt as error:
        _say("Ended.")
        raise typer.Exit(130) from error


if __name__ == "__main__":
    app()
