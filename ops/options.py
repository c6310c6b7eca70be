"""Options that many verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Stack = Annotated[str, typer.Option("--stack", "-s", help="Stack: `prod` means Pulumi.prod.yaml; or the path of one.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Models = Annotated[list[str] | None, typer.Option("--model", "-m", help="Models by name; all of the stack if none.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Kubeconfig = Annotated[Path | None, typer.Option(help="Kubeconfig, in place of the stack's own way in.")]
Context = Annotated[str | None, typer.Option(help="Context of the kubeconfig.")]
