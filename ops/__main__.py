"""`python -m ops <verb>`: the command line. Each verb imports what it needs when it runs, so that `plan` stays fast."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

app = typer.Typer(
    help="Verbs beside pulumi. Exit codes: 0 fine, 1 findings, 2 usage or stack file, 3 environment.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Stack = Annotated[str, typer.Option("--stack", "-s", help="Stack: `prod` means Pulumi.prod.yaml.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]


@app.command()
def plan(
    stack: Stack = "dev",
    as_json: Json = False,
    explain: Annotated[
        str | None, typer.Option(help="Explain one model: layout, memory, command line, probes.")
    ] = None,
) -> None:
    """Show what a stack will be: models, layouts, nodes, prices."""
    from ops.plan import show_plan

    raise typer.Exit(show_plan(stack, as_json=as_json, explain=explain))


@app.command()
def cost(stack: Stack = "dev", as_json: Json = False) -> None:
    """Show what a stack costs, line by line."""
    from ops.plan import show_cost

    raise typer.Exit(show_cost(stack, as_json=as_json))


@app.command()
def check(
    stack: Annotated[
        list[str] | None, typer.Option("--stack", "-s", help="Stacks; all of this directory if none.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Judge stack files: every problem at once, with its line."""
    from ops.console import PROJECT_DIRECTORY
    from ops.plan import check as judge

    stacks = stack or sorted(path.name.split(".")[1] for path in PROJECT_DIRECTORY.glob("Pulumi.*.yaml"))
    raise typer.Exit(judge(stacks, as_json=as_json))


if __name__ == "__main__":
    sys.exit(app())
