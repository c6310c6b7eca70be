"""Verbs that ask a stack's cluster."""

from __future__ import annotations

from typing import Annotated

import typer

from ops.options import Context, Json, Kubeconfig, Models, Stack, Yes

verbs = typer.Typer()


@verbs.command()
def wait(
    stack: Stack = "dev",
    models: Models = None,
    timeout: Annotated[int | None, typer.Option(help="Seconds; from the plan (boot, load, start) if none.")] = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    as_json: Json = False,
) -> None:
    """Wait until models are ready, telling what each waits for."""
    from ops.wait import WaitOptions, show_wait

    options = WaitOptions(models=models, timeout_seconds=timeout, kubeconfig=kubeconfig, context=context)
    raise typer.Exit(show_wait(stack, options, as_json=as_json))


@verbs.command()
def ladder(
    stack: Stack = "dev",
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    as_json: Json = False,
) -> None:
    """Which rung of capacity each group runs on, what that costs, and what keeps it from a better one."""
    from ops.ladder import LadderOptions, show_ladder

    raise typer.Exit(show_ladder(stack, LadderOptions(kubeconfig=kubeconfig, context=context), as_json=as_json))


@verbs.command()
def smoke(
    stack: Stack = "dev",
    models: Models = None,
    url: Annotated[str | None, typer.Option(help="An endpoint, ending with /v1, in place of the stack's.")] = None,
    key_env: Annotated[str | None, typer.Option(help="Environment variable with the key of --url.")] = None,
    timeout: Annotated[int, typer.Option(help="Seconds that one completion may take.")] = 300,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    as_json: Json = False,
) -> None:
    """One real completion through each model's endpoint."""
    from ops.smoke import SmokeOptions, show_smoke

    options = SmokeOptions(
        models=models, url=url, key_env=key_env, timeout_seconds=timeout, kubeconfig=kubeconfig, context=context
    )
    raise typer.Exit(show_smoke(stack, options, as_json=as_json))


@verbs.command()
def rotate(
    stack: Stack = "dev",
    timeout: Annotated[int | None, typer.Option(help="Seconds for each model; from the plan if none.")] = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    as_json: Json = False,
) -> None:
    """After the password of a store was changed, restart the clients that still have the former one."""
    from ops.rotate import RotateOptions, show_rotate

    options = RotateOptions(timeout_seconds=timeout, kubeconfig=kubeconfig, context=context)
    raise typer.Exit(show_rotate(stack, options, as_json=as_json))


@verbs.command()
def drain(
    stack: Stack = "dev",
    load_balancers: Annotated[
        bool, typer.Option("--load-balancers", help="Delete Services and Ingresses that hold a load balancer, too.")
    ] = False,
    yes: Yes = False,
    undo: Annotated[bool, typer.Option("--undo", help="Bring the models back.")] = False,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    as_json: Json = False,
) -> None:
    """Stop all models, requests finished, before a destroy."""
    from ops.drain import DrainOptions, show_drain

    options = DrainOptions(yes=yes, undo=undo, load_balancers=load_balancers, kubeconfig=kubeconfig, context=context)
    raise typer.Exit(show_drain(stack, options, as_json=as_json))
