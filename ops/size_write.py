"""Writes a choice of `size` into a stack file: whole or not at all, and only if the result plans."""

from __future__ import annotations

import difflib
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ops.console import FINDINGS, OK, err, out
from ops.errors import FindingsError, UsageError
from planner import Plan, StackFileError, load_and_plan
from planner.sizing import ApartMember, Entries, Image, Member, Sizing, entries
from settings.edit import EditError, entry_of, with_entry
from settings.load import Document, read

# Keys of a model that a size decides by leaving them out: an old value would contradict the new layout or weights.
_DECIDED: tuple[str, ...] = (
    "quantization",
    "runtime",
    "kv_cache",
    "traffic",
    "layout",
    "replicas",
    "disaggregated",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteOptions:
    """Where a choice goes."""

    file: Path
    """A stack file, `Pulumi.<stack>.yaml`."""
    name: str
    """Of the model."""
    choose: int | None = None
    """The first of the front where left out."""
    pool: str | None = None
    """Name of its pool; from the GPU where left out."""
    replace: bool = False
    dry_run: bool = False
    revision: str | None = None
    image: str | None = None
    """`repository:tag` of an image with EFA software."""


def write_choice(sizing: Sizing, options: WriteOptions) -> int:
    """Add the entries, plan the result, and only then put it in place of the file; with `dry_run` print the diff."""
    member = _chosen(sizing, options.choose)
    path = options.file.resolve()
    document = read(path)
    _check_region(member, document)
    before = _text(path)
    try:
        made = _entries(member, sizing, document, before, options)
        after = _edited(before, made, options)
    except EditError as error:
        raise UsageError(f"{path.name}: {error}", help=error.help) from None
    plan = _planned(path.name, after)
    if plan is None:
        err.print(f"{path.name} was left as it is: with choice #{member.number} in it, it does not plan", markup=False)
        return FINDINGS
    if options.dry_run:
        _print_diff(path.name, before, after)
        return OK
    _replace(path, before, after)
    pools = " and ".join(f"`{pool['name']}`" for pool in made.pools)
    out.print(
        f"{path.name}: pool {pools} and model `{made.model['name']}` written (#{member.number}: "
        f"{member.option.words}, {member.option.usd_per_hour:,.2f} $/h)",
        markup=False,
        soft_wrap=True,
    )
    out.print(
        f"the stack's worst month is now {plan.cost.peak_usd_per_month:,.0f} $; see it with "
        f"`python -m ops plan --stack {plan.stack}`",
        markup=False,
        soft_wrap=True,
    )
    return OK


def _chosen(sizing: Sizing, number: int | None) -> Member | ApartMember:
    """The first of the front unless a number is said; an experimental answer by its number alone."""
    others = sizing.experimental.members if sizing.experimental else ()
    last = len(sizing.front) + len(others)
    if number is None and not sizing.front:
        raise UsageError(
            "only experimental answers serve this, and none is taken unasked", help=f"--choose 1 to {last}"
        )
    chosen = sizing.member(1 if number is None else number)
    if chosen is None:
        raise UsageError(f"there is no choice #{number}", help=f"--choose 1 to {last}")
    return chosen


def _text(path: Path) -> str:
    """With its own line ends."""
    with path.open(encoding="utf-8", newline="") as stream:
        return stream.read()


def _check_region(member: Member | ApartMember, document: Document) -> None:
    region = member.option.region
    if document.region is not None and document.region != region:
        raise UsageError(
            f"choice #{member.number} is in {region}, and {document.file} in {document.region}",
            help=f"--region {document.region}, or another --choose",
        )


def _entries(
    member: Member | ApartMember, sizing: Sizing, document: Document, text: str, options: WriteOptions
) -> Entries:
    return entries(
        member,
        sizing.request,
        name=options.name,
        pool=options.pool or _pool_name(member, document, text, options),
        zones=tuple(_zones(document)),
        revision=options.revision,
        image=_image(options.image),
    )


def _pool_name(member: Member | ApartMember, document: Document, text: str, options: WriteOptions) -> str:
    """The pool of the model that is replaced where it has it alone; else a free name after the GPU."""
    old = entry_of(text, "models", options.name)
    if old is not None and options.replace:
        users = [model for model in _mappings(document, "models") if model.get("pool") == old.get("pool")]
        if len(users) == 1:
            return str(old["pool"])
    gpu = member.option.gpu.lower()
    taken = {str(pool.get("name")) for pool in _mappings(document, "pools")}
    free = (gpu if number == 1 else f"{gpu}-{number}" for number in range(1, len(taken) + 2))
    return next(name for name in free if name not in taken)


def _zones(document: Document) -> Iterator[str]:
    """Where the stack is already: its cache first, since weights come faster from the file system of the same zone."""
    cache = document.platform.get("cache")
    if isinstance(cache, Mapping):
        zone = cast("Mapping[str, Any]", cache).get("availability_zone")
        if zone:
            yield str(zone)
    for pool in _mappings(document, "pools"):
        if pool.get("availability_zone"):
            yield str(pool["availability_zone"])
        yield from map(str, pool.get("availability_zones") or ())


def _mappings(document: Document, section: str) -> list[Mapping[str, Any]]:
    found = document.platform.get(section)
    items = cast("list[Any]", found) if isinstance(found, list) else []
    return [cast("Mapping[str, Any]", item) for item in items if isinstance(item, Mapping)]


def _image(text: str | None) -> Image | None:
    if text is None:
        return None
    repository, _, tag = text.rpartition(":")
    if not repository or "/" in tag:
        raise UsageError(f"--image {text}: no tag", help="--image <repository>:<tag>, built from images/")
    return Image(repository=repository, tag=tag)


def _edited(text: str, made: Entries, options: WriteOptions) -> str:
    old = entry_of(text, "models", options.name)
    without = [key for key in _DECIDED if key not in made.model]
    if old is not None and old.get("engine", "vllm") != made.model["engine"]:
        without.append("image")  # it holds the other engine
    for pool in made.pools:
        text = with_entry(text, "pools", pool, replace=options.replace)
    return with_entry(text, "models", made.model, replace=options.replace, without=without)


def _planned(name: str, text: str) -> Plan | None:
    """The plan of the edited file; None after its problems were printed."""
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / name
        with copy.open("w", encoding="utf-8", newline="") as stream:
            stream.write(text)
        try:
            return load_and_plan(copy)[1]
        except StackFileError as error:
            err.print(str(error), markup=False, soft_wrap=True)
            return None


def _replace(path: Path, before: str, after: str) -> None:
    """At once: a reader sees the old file or the new one."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as stream:
            stream.write(after)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(path.stat().st_mode & 0o777)
        if _text(path) != before:
            raise FindingsError(
                f"{path.name} was changed meanwhile and is left as it is", help="run the same command again"
            )
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _print_diff(name: str, before: str, after: str) -> None:
    diff = difflib.unified_diff(before.splitlines(), after.splitlines(), name, f"{name} (with the choice)", lineterm="")
    for line in diff:
        out.print(line, markup=False, soft_wrap=True)
