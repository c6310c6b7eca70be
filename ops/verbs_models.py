"""Verbs about weights: in the stack's bucket, and on its cache."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ops.options import Context, Json, Kubeconfig, Models, Stack, Yes

verbs = typer.Typer(help="Weights of models, their drafts and adapters: bucket and cache.", no_args_is_help=True)

Bucket = Annotated[str | None, typer.Option(help="Bucket; the stack's output weights_bucket if none.")]


@verbs.command()
def stage(
    stack: Stack = "dev",
    models: Models = None,
    repository: Annotated[
        str | None, typer.Option(help="One of what they need, by hub id: their own, a draft model, an adapter.")
    ] = None,
    folder: Annotated[Path | None, typer.Option("--from", help="A folder with the revision; the hub if none.")] = None,
    bucket: Bucket = None,
    scratch: Annotated[Path | None, typer.Option(help="Where downloads from the hub are kept meanwhile.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite other content of the same revision.")] = False,
    abort: Annotated[bool, typer.Option("--abort", help="Drop unfinished uploads, upload nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Bring what models need into the stack's bucket: weights, draft models, adapters, manifest last.

    Run it again to go on after an interruption.
    """
    from ops.staging import StageOptions, show_stage

    options = StageOptions(
        models=models,
        repository=repository,
        folder=folder,
        bucket=bucket,
        scratch=scratch,
        replace=replace,
        abort=abort,
    )
    raise typer.Exit(show_stage(stack, options, as_json=as_json))


@verbs.command("list")
def list_revisions(stack: Stack = "dev", models: Models = None, bucket: Bucket = None, as_json: Json = False) -> None:
    """Revisions in the stack's bucket: which are whole, which a model still lacks, which nobody needs."""
    from ops.revisions import show_bucket

    raise typer.Exit(show_bucket(stack, bucket=bucket, models=models, deep=False, as_json=as_json))


@verbs.command()
def verify(stack: Stack = "dev", models: Models = None, bucket: Bucket = None, as_json: Json = False) -> None:
    """Like `list`, and each object's checksum is held to its manifest. Warm-up Jobs check every byte on the cache."""
    from ops.revisions import show_bucket

    raise typer.Exit(show_bucket(stack, bucket=bucket, models=models, deep=True, as_json=as_json))


@verbs.command()
def warm(
    stack: Stack = "dev",
    models: Models = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    as_json: Json = False,
) -> None:
    """How far the Jobs are that bring weights onto the cache; those that failed are started again."""
    from ops.warming import show_warm

    raise typer.Exit(show_warm(stack, models, kubeconfig=kubeconfig, context=context, as_json=as_json))


@verbs.command("evict")
def evict_revisions(
    stack: Stack = "dev",
    keep: Annotated[
        int | None, typer.Option(min=0, help="Earlier revisions of each repository; cache.keep_revisions if none.")
    ] = None,
    repository: Annotated[str | None, typer.Option(help="Only of this one, by hub id.")] = None,
    really: Annotated[bool, typer.Option("--really", help="Evict; without it, what would go is told.")] = False,
    yes: Yes = False,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    as_json: Json = False,
) -> None:
    """What lies on the cache, and what of it nobody uses: a Job in the cluster looks, and with --really removes."""
    from ops.eviction import EvictOptions, show_evict

    options = EvictOptions(
        keep=keep, repository=repository, really=really, yes=yes, kubeconfig=kubeconfig, context=context
    )
    raise typer.Exit(show_evict(stack, options, as_json=as_json))
