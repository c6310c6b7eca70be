"""`python -m ops <verb>`: the command line. Each verb imports what it needs when it runs, so that `plan` stays fast."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

try:
    import typer
except ModuleNotFoundError:  # the packages are in .venv alone
    sys.stderr.write("error: this Python lacks the packages\n  help: `make setup`, then .venv/bin/python -m ops\n")
    sys.exit(3)

from ops.options import Context, Json, Kubeconfig, Models, Stack, Yes
from ops.verbs_cluster import verbs as cluster_verbs
from ops.verbs_models import verbs as model_verbs

app = typer.Typer(
    help="Verbs beside pulumi. Exit codes: 0 fine, 1 findings, 2 usage or stack file, 3 environment.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(model_verbs, name="models")
app.add_typer(cluster_verbs)
prices_app = typer.Typer(help="Prices of the catalog.", no_args_is_help=True)
app.add_typer(prices_app, name="prices")


@app.command()
def plan(
    stack: Stack = "dev",
    as_json: Json = False,
    explain: Annotated[
        str | None, typer.Option(help="Explain one model, or `cost`: each number, its formula and sources.")
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


@app.command()
def rehearse(
    stack: Stack = "dev",
    engine: Annotated[
        Literal["in-process", "pulumi"], typer.Option(help="Who runs the program; `pulumi` needs its CLI.")
    ] = "in-process",
    inject: Annotated[str | None, typer.Option(help="A fault that must be found, such as `missing-secret`.")] = None,
    capacity: Annotated[
        list[str] | None, typer.Option(help="Machines that can be had, `<rung>=<nodes>`; `all=0` for none.")
    ] = None,
    climb: Annotated[
        bool, typer.Option("--climb", help="Open maintenance windows: with --capacity, groups must climb back.")
    ] = False,
    scenario: Annotated[
        list[str] | None, typer.Option(help="A failure to survive: spot-reclaim, node-loss or zone-loss.")
    ] = None,
    spare: Annotated[int, typer.Option(min=0, help="With --scenario: idle nodes in each pool when it comes.")] = 0,
    crd_dir: Annotated[Path | None, typer.Option(envvar="CRD_DIR", help="Upstream's CRDs.")] = None,
    charts_dir: Annotated[
        Path | None, typer.Option(help="Real charts to install, `<name>-<version>` each; others are stood in for.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port of the API server; a free one if none.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Build a stack against a real control plane on this machine, without an AWS account."""
    from ops.rehearse import RehearseOptions, show_rehearsal

    options = RehearseOptions(
        engine=engine,
        inject=inject,
        capacity=capacity or [],
        climb=climb,
        scenarios=tuple(scenario or ()),
        spare_nodes=spare,
        crd_dir=crd_dir,
        charts_dir=charts_dir,
        port=port,
    )
    raise typer.Exit(show_rehearsal(stack, options, as_json=as_json))


@app.command()
def simulate(
    stack: Stack = "dev",
    trace: Annotated[Path | None, typer.Option(help="CSV: time, input_tokens, output_tokens, maybe model.")] = None,
    profile: Annotated[
        Literal["diurnal", "bursty", "flat"] | None, typer.Option(help="A made-up day in place of a trace.")
    ] = None,
    requests_per_day: Annotated[
        float | None, typer.Option(help="Of a profile, all models together; from the stack file if none.")
    ] = None,
    models: Models = None,
    hours: Annotated[float | None, typer.Option(help="Length; 24 of a profile, all of a trace if none.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=10**6, help="The same seed gives the same answer.")] = 0,
    date: Annotated[str, typer.Option(help="Day of a profile, and of a trace that counts from 0.")] = "2026-06-17",
    timezone: Annotated[str, typer.Option(help="IANA name of the zone that the day begins in.")] = "UTC",
    spot_interruptions: Annotated[
        float | None, typer.Option(help="An hour of each spot node; from the catalog if none.")
    ] = None,
    refused_share: Annotated[float, typer.Option(min=0, max=1, help="Share of requests that may be refused.")] = 0.001,
    allow_gaps: Annotated[bool, typer.Option("--allow-gaps", help="Nothing arrives in gaps of a trace.")] = False,
    compare: Annotated[bool, typer.Option(help="Also with and without pre-scaling and warm nodes.")] = True,
    plot: Annotated[Path | None, typer.Option(help="Write a figure: .png, .svg or .pdf.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the course over time as CSV.")] = None,
    tune: Annotated[bool, typer.Option("--tune", help="Search cheaper settings that meet the objectives.")] = False,
    trials: Annotated[int, typer.Option(min=1, max=10_000, help="Settings that --tune tries.")] = 64,
    as_json: Json = False,
) -> None:
    """Replay a day of traffic: replicas, latencies, refused requests, cost. Ends with 1 where an objective fails."""
    from ops.simulate import SimulateOptions, show_simulation

    options = SimulateOptions(
        trace=trace,
        profile=profile,
        requests_per_day=requests_per_day,
        models=models or (),
        hours=hours,
        seed=seed,
        day=date,
        timezone=timezone,
        spot_interruptions=spot_interruptions,
        refused_share=refused_share,
        allow_gaps=allow_gaps,
        compare=compare,
        plot=plot,
        series=out,
        tune=tune,
        trials=trials,
    )
    raise typer.Exit(show_simulation(stack, options, as_json=as_json))


@app.command()
def doctor(stack: Stack = "dev", as_json: Json = False) -> None:
    """Are tools, credentials, region, quotas and capacity there for a stack?"""
    from ops.doctor import show_doctor

    raise typer.Exit(show_doctor(stack, as_json=as_json))


@app.command()
def preflight(stack: Stack = "dev", as_json: Json = False) -> None:
    """What stands between a plan and its first token in this account, and what is at risk in money."""
    from ops.preflight.run import show_preflight

    raise typer.Exit(show_preflight(stack, as_json=as_json))


@app.command()
def capacity(
    model: Annotated[str, typer.Option("--model", "-m", help="A model of the catalog.")],
    regions: Annotated[str, typer.Option(help="Regions, separated by commas, or `all`.")] = "us-east-1",
    context: Annotated[int | None, typer.Option(min=1, help="Tokens of context; 8192 at most if not given.")] = None,
    replicas: Annotated[int, typer.Option(min=1, max=1000, help="Replicas that must fit at once.")] = 1,
    offline: Annotated[bool, typer.Option("--offline", help="Ask the catalog alone: no account, no quotas.")] = False,
    as_json: Json = False,
) -> None:
    """Where a model's hardware can be had: regions, zones and types by offering, spot price and quota."""
    from ops.capacity import CapacityOptions, show_capacity

    raise typer.Exit(
        show_capacity(
            CapacityOptions(
                model=model,
                context_tokens=context,
                replicas=replicas,
                regions=regions,
                offline=offline,
                as_json=as_json,
            )
        )
    )


@app.command()
def deploy(
    stack: Stack = "dev",
    preview: Annotated[bool, typer.Option("--preview", help="Show what would change; change nothing.")] = False,
    scope: Annotated[
        Literal["all", "models", "images"],
        typer.Option(
            help="`models` touches the models' own objects alone, `images` has nodes pull the engines' images alone."
        ),
    ] = "all",
    yes: Yes = False,
    skip_checks: Annotated[bool, typer.Option("--skip-checks", help="Go on whatever the checks say.")] = False,
) -> None:
    """Run `pulumi up` on a stack, after what would surely fail was looked for."""
    from ops.deploy import DeployOptions
    from ops.deploy import deploy as run

    raise typer.Exit(
        run(stack, DeployOptions(preview=preview, scope=scope, yes=yes, skip_checks=skip_checks)),
    )


@app.command()
def size(
    model: Annotated[str, typer.Option("--model", "-m", help="Hub id of a catalog card.")],
    rps: Annotated[float, typer.Option(help="Requests a second at the peak that is planned for.")],
    input_tokens: Annotated[str, typer.Option("--input", help="Tokens of a prompt: mean, or mean:p99.")],
    output_tokens: Annotated[str, typer.Option("--output", help="Tokens of an answer: mean, or mean:p99.")],
    ttft_p99: Annotated[float | None, typer.Option(help="Time to first token, p99 in ms; 2000 if none.")] = None,
    tpot_p99: Annotated[float | None, typer.Option(help="Time per output token, p99 in ms; 100 if none.")] = None,
    region: Annotated[str | None, typer.Option(help="The stack's with --write, else us-east-1, if none.")] = None,
    regions: Annotated[str | None, typer.Option(help="Several with commas between, or `all` that have prices.")] = None,
    spot_share: Annotated[float, typer.Option(help="Most of the nodes that may be spot.")] = 1.0,
    no_spot: Annotated[bool, typer.Option("--no-spot", help="The same as --spot-share 0.")] = False,
    engine: Annotated[Literal["vllm", "sglang", "any"], typer.Option()] = "any",
    context: Annotated[int | None, typer.Option(help="Longest prompt plus answer; from both p99 if none.")] = None,
    cached: Annotated[float, typer.Option(help="Share of input tokens that the prefix cache holds.")] = 0.0,
    availability: Annotated[float | None, typer.Option(help="Share of requests that must meet capacity.")] = None,
    quantization: Annotated[
        Literal["any", "checkpoint", "fp8", "awq"], typer.Option(help="`checkpoint` serves the weights as published.")
    ] = "any",
    max_nodes: Annotated[int, typer.Option(help="Nodes at most.")] = 64,
    front: Annotated[str, typer.Option(help="What options are weighed by.")] = "cost,latency,resilience",
    experimental: Annotated[
        bool, typer.Option("--experimental", help="Also prefill and decode apart, beside the front.")
    ] = False,
    write: Annotated[Path | None, typer.Option(help="Stack file that gets the choice, if it still plans.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model in the stack file.")] = None,
    choose: Annotated[int | None, typer.Option(help="Number of the answer that is written; the first if none.")] = None,
    pool: Annotated[str | None, typer.Option(help="Name of its pool; from the GPU if none.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite a model or pool of that name.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what --write would change.")] = False,
    revision: Annotated[str | None, typer.Option(help="Commit of the weights; the catalog's if none.")] = None,
    image: Annotated[str | None, typer.Option(help="<repository>:<tag> with EFA, for replicas over nodes.")] = None,
    as_json: Json = False,
) -> None:
    """How many of which machines serve a load, at what cost, and why the rest lost."""
    from ops.size import SizeOptions, show_size, write_options

    options = SizeOptions(
        model=model,
        rps=rps,
        input=input_tokens,
        output=output_tokens,
        ttft_p99=ttft_p99,
        tpot_p99=tpot_p99,
        region=region,
        regions=regions,
        spot_share=0.0 if no_spot else spot_share,
        engine=engine,
        context=context,
        cached=cached,
        availability=availability,
        quantization=quantization,
        max_nodes=max_nodes,
        front=front,
        experimental=experimental,
    )
    target = write_options(
        write, name, choose=choose, pool=pool, replace=replace, dry_run=dry_run, revision=revision, image=image
    )
    raise typer.Exit(show_size(options, target, as_json=as_json))


@prices_app.command()
def refresh(
    region: Annotated[list[str], typer.Option("--region", "-r", help="Region to ask for; may be repeated.")],
    instance: Annotated[
        list[str] | None, typer.Option(help="Instance types; all that the region offers, and services, if none.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show old and new prices, write nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Read today's prices from AWS into catalog/prices.yaml: on demand, spot, capacity blocks, services."""
    from ops.prices import RefreshOptions, show_refresh

    options = RefreshOptions(regions=region, instances=instance or [], dry_run=dry_run)
    raise typer.Exit(show_refresh(options, as_json=as_json))


@app.command("efa-test")
def efa_test(
    pool: Annotated[str, typer.Option(help="Pool whose nodes are tested.")],
    stack: Stack = "dev",
    nodes: Annotated[int, typer.Option(help="Nodes that make the all-reduce.")] = 2,
    timeout: Annotated[int | None, typer.Option(help="Seconds; from the plan (boot, image, test) if none.")] = None,
    yes: Yes = False,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    as_json: Json = False,
) -> None:
    """All-reduce over a pool's nodes: is NCCL on EFA, and as fast as the instance type should be?"""
    from ops.efa_test import EfaTestOptions, show_efa_test

    options = EfaTestOptions(
        pool=pool, nodes=nodes, timeout_seconds=timeout, yes=yes, kubeconfig=kubeconfig, context=context
    )
    raise typer.Exit(show_efa_test(stack, options, as_json=as_json))


@app.command()
def promote(
    source: Annotated[str, typer.Option("--from", help="Stack that runs this commit.")],
    target: Annotated[str, typer.Option("--to", help="Stack that is to run it.")],
    yes: Yes = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Stop before the update.")] = False,
    verify: Annotated[bool, typer.Option(help="Wait for the target's models and smoke them.")] = True,
    as_json: Json = False,
) -> None:
    """Bring the commit that one stack runs to another: compared, rehearsed, previewed, applied, smoked."""
    from ops.promote import PromoteOptions, show_promote

    options = PromoteOptions(yes=yes, dry_run=dry_run, verify=verify)
    raise typer.Exit(show_promote(source, target, options, as_json=as_json))


@app.command("model-card")
def model_card(
    config: Annotated[Path, typer.Argument(help="A model's config.json, or the folder that holds it.")],
    name: Annotated[str | None, typer.Option(help="Hub id, such as my-org/my-model; the config's own if none.")] = None,
    inline: Annotated[bool, typer.Option("--inline", help="For `models[].model` of a stack file.")] = False,
    revision: Annotated[str | None, typer.Option(help="Commit of the hub repository.")] = None,
    license_name: Annotated[str | None, typer.Option("--license", help="As the model's page names it.")] = None,
    gated: Annotated[bool, typer.Option("--gated", help="The hub asks for a token.")] = False,
    as_json: Json = False,
) -> None:
    """Make a model card for the catalog or a stack file from a config.json."""
    from ops.model_card import CardOptions, show_model_card

    options = CardOptions(name=name, license=license_name, gated=gated, revision=revision, inline=inline)
    raise typer.Exit(show_model_card(config, options, as_json=as_json))


@app.command()
def leaks(stack: Stack = "dev", as_json: Json = False) -> None:
    """What AWS still has of a stack after its destroy."""
    from ops.leaks import show_leaks

    raise typer.Exit(show_leaks(stack, as_json=as_json))


def main(arguments: list[str] | None = None) -> int:
    """Run a verb; what a user can mend is told without a traceback."""
    from ops.console import INTERRUPTED, USAGE, err
    from ops.errors import OpsError
    from settings.errors import StackFileError

    try:
        app(arguments, standalone_mode=True)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except StackFileError as error:
        err.print(str(error), markup=False, soft_wrap=True)
        return USAGE
    except OpsError as error:
        err.print(str(error), markup=False, soft_wrap=True)
        return error.exit_code
    except KeyboardInterrupt:
        err.print("interrupted; run the same command again to go on")
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
