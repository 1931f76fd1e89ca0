"""`hpz patch`: list, show, build and verify the variants of DeepSpeed."""

from __future__ import annotations

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.syntax import Syntax
from rich.table import Table

from harness.cli.console import wide_console
from harness.cli.options import JsonOption, UnpinnedOption, wanted_release
from harness.system.errors import HarnessError
from harness.variants import (
    Variant,
    all_variants,
    describe,
    installed_release,
    load_series,
    overlay_path,
    precondition_note,
    release_notes,
    release_ranges,
    split_release,
    supported_releases,
    verify,
)
from harness.variants.adopt import Adoption, adopt
from harness.variants.describe import what
from harness.variants.families import families
from harness.variants.fit import differs_from_nearest
from harness.variants.sources import hashes_of, resolve, series_of
from harness.variants.verify import Verification

app = typer.Typer(
    name="patch",
    help="Variants of DeepSpeed: list, show, build, verify.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

VariantName = Annotated[
    str, typer.Argument(metavar="VARIANT", help="For example event, fixed, old+event+step.")
]
Release = Annotated[str | None, typer.Option(help="A DeepSpeed release; default: the installed one.")]
Source = Annotated[Path | None, typer.Option(help="A `deepspeed` package folder to patch instead.")]


@app.command("list")
def list_variants(
    release: Release = None,
    source: Source = None,
    unpinned: UnpinnedOption = False,
    releases: Annotated[
        bool, typer.Option("--releases", help="List the releases and the patches of each instead.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List the variants and the patches that make them.

    Example: hpz patch list --release 0.16.4
    """
    if releases:
        _list_releases(as_json)
        return
    wanted = wanted_release(release, unpinned, source) or installed_release() or supported_releases()[-1]
    series = resolve(wanted, source)[0] if unpinned or source else series_of(str(wanted))
    patches = {variant: hashes_of(series, variant) for variant in all_variants() if series.makes(variant)}
    note = precondition_note(series.release)
    if as_json:
        rows = [{"variant": v.name, "what": what(v), "patches": hashes} for v, hashes in patches.items()]
        _print_json(
            {"release": series.release, "note": note, "supported": supported_releases(), "variants": rows}
        )
        return
    table = Table("variant", "what it is", "patches", title=f"DeepSpeed {series.release}")
    for variant, hashes in patches.items():
        table.add_row(variant.name, what(variant), "\n".join(hashes) or "none")
    console = wide_console()
    console.print(table)
    if note:
        console.print(note)
    console.print(f"Pinned releases: {release_ranges()}")


@app.command()
def show(
    variant: VariantName,
    release: Release = None,
    source: Source = None,
    unpinned: UnpinnedOption = False,
    as_json: JsonOption = False,
) -> None:
    """Explain a variant and show its lines as a diff.

    Example: hpz patch show event
    """
    description = describe(Variant.parse(variant), wanted_release(release, unpinned, source), source)
    if as_json:
        _print_json(asdict(description))
        return
    console = wide_console()
    console.print(
        f"[bold]{description.variant}[/bold] of DeepSpeed {description.release}: {description.what}"
    )
    if description.note:
        console.print(description.note)
    if not description.diff:
        console.print("The release itself: no patched lines.")
    elif console.is_terminal:
        console.print(Syntax(description.diff, "diff", word_wrap=True))
    else:
        print(description.diff, end="")


@app.command()
def path(
    variant: VariantName,
    release: Release = None,
    source: Source = None,
    unpinned: UnpinnedOption = False,
    as_json: JsonOption = False,
) -> None:
    """Build the overlay if need be and print its folder, for PYTHONPATH.

    Example: PYTHONPATH=$(hpz patch path event) deepspeed train.py --deepspeed_config ds_config.json
    """
    wanted = Variant.parse(variant)
    series, package = resolve(wanted_release(release, unpinned, source), source)
    folder = overlay_path(wanted, series.release, package)
    if not series.pinned:
        _warn(
            f"DeepSpeed {series.release}: family {series.family.name}; {differs_from_nearest(series.release, package)}"
        )
    if wanted.hpz and (note := precondition_note(series.release)):
        _warn(note)
    if as_json:
        _print_json({"variant": wanted.name, "release": series.release, "path": str(folder)})
    else:
        print(folder)


@app.command("verify")
def verify_variants(
    variants: Annotated[
        list[str] | None, typer.Argument(metavar="[VARIANT]...", help="Default: all.")
    ] = None,
    release: Release = None,
    source: Source = None,
    unpinned: UnpinnedOption = False,
    all_releases: Annotated[
        bool, typer.Option("--all-releases", help="Every pinned release; by default its event and stock.")
    ] = False,
    imports: Annotated[
        bool, typer.Option(help="Also import DeepSpeed from each overlay (seconds each).")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Prove overlays again: hashes, syntax tree, and the files that Python really loads.

    Example: hpz patch verify event fixed
    """
    if all_releases:
        if release or source or unpinned:
            raise HarnessError("--all-releases takes no --release, --source or --unpinned; leave them out")
        wanted = [Variant.parse(name) for name in variants or ("event", "stock")]
        _verify_releases(supported_releases(), wanted, imports, as_json)
        return
    found = []
    for variant in [Variant.parse(name) for name in variants] if variants else all_variants():
        found.append(verify(variant, wanted_release(release, unpinned, source), source, imports=imports))
        if not as_json:
            print(_sentence(found[-1]), flush=True)
    if as_json:
        _print_json([{**asdict(one), "path": str(one.path)} for one in found])


@app.command("adopt")
def adopt_releases(
    releases: Annotated[list[str], typer.Argument(metavar="RELEASE...")],
    source: Annotated[
        Path | None, typer.Option(help="The release's `deepspeed` package folder; default: it is fetched.")
    ] = None,
    check: Annotated[bool, typer.Option(help="Write nothing; fail where the table is not so.")] = False,
) -> None:
    """Pin a release: find the patches that fit it, prove every variant, write its hashes.

    Example: hpz patch adopt 0.19.9
    """
    for release in releases:
        print(_adopted(adopt(release, source, check=check)), flush=True)


def _verify_releases(releases: list[str], variants: list[Variant], imports: bool, as_json: bool) -> None:
    """Releases side by side, as an import mostly computes and a build mostly waits. Raises HarnessError at the end."""
    started = time.monotonic()

    def one(release: str) -> tuple[list[Verification], str]:
        found: list[Verification] = []
        try:
            for variant in variants:
                found.append(verify(variant, release, imports=imports))
        except HarnessError as error:
            return found, str(error)
        return found, ""

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        results = {}
        for release, (found, reason) in zip(releases, pool.map(one, releases), strict=True):
            results[release] = reason
            if not as_json:
                proved = ", ".join(verification.variant for verification in found) or "nothing"
                note = f"; {precondition_note(release)}" if precondition_note(release) else ""
                print(f"{release}: {proved} proved{note}" + (f"; {reason}" if reason else ""), flush=True)
    wrong = [release for release, sentence in results.items() if sentence]
    if as_json:
        _print_json([{"release": release, "wrong": sentence} for release, sentence in results.items()])
    else:
        names = " and ".join(variant.name for variant in variants)
        print(f"{names} of {len(releases) - len(wrong)} releases in {time.monotonic() - started:.0f} s")
    if wrong:
        raise HarnessError(f"not proved: {', '.join(wrong)}; the reasons stand above")


def _list_releases(as_json: bool) -> None:
    known = {release: load_series(release).family.name for release in supported_releases()}
    rows = [
        (family, [name for name, other in known.items() if other == family.name]) for family in families()
    ]
    if as_json:
        _print_json(
            [{"family": f.name, "releases": names, "own": f.own, "patches": f.patches} for f, names in rows]
        )
        return
    table = Table("releases", "as released", "patches")
    for family, names in rows:
        own = ", ".join(f"{axis}={value}" for axis, value in family.own.items())
        table.add_row(f"{names[0]} – {names[-1]} ({len(names)})", own, "\n".join(family.patches.values()))
    wide_console().print(table)


def _adopted(found: Adoption) -> str:
    written = "written" if found.news else "as pinned"
    sentence = f"{found.release}: family {found.family}, every variant proved, {written}"
    if found.before is None:
        return sentence
    if not found.changed:
        return f"{sentence}; the patched files are those of {found.before}, so there is nothing to look at"
    return (
        f"{sentence}; look at what changed since {found.before} in {', '.join(found.changed)}: whether anything else "
        "reads the secondary tensors or writes the partitions"
    )


def _warn(sentence: str) -> None:
    print(sentence, file=sys.stderr)


def _sentence(found: Verification) -> str:
    loaded = ", imported from it" if found.loaded else ""
    proof = (
        "syntax tree as it must be"
        if split_release(found.release)[1]
        else "hashes and syntax tree as they must be"
    )
    notes = "".join(f"; {note}" for note in release_notes([(found.release, found.variant)]))
    return f"{found.variant} of {found.release}: {proof}{loaded}; {found.path}{notes}"


def _print_json(content: Any) -> None:
    print(json.dumps(content, indent=2))
