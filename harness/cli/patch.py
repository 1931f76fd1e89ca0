"""`hpz patch`: list, show, build and verify the variants of DeepSpeed."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.syntax import Syntax
from rich.table import Table

from harness.cli.console import wide_console
from harness.cli.options import JsonOption
from harness.system.errors import HarnessError
from harness.variants import Variant, all_variants, installed_release, overlay_path, supported_releases
from harness.variants.apply import rehash
from harness.variants.describe import describe, what
from harness.variants.series import load_series, patch_hashes
from harness.variants.verify import Verification, verify

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
Release = Annotated[
    str | None, typer.Option(help="A supported DeepSpeed release; default: the installed one.")
]
Source = Annotated[Path | None, typer.Option(help="A `deepspeed` package folder to patch instead.")]


@app.command("list")
def list_variants(release: Release = None, as_json: JsonOption = False) -> None:
    """List the variants and the patches that make them.

    Example: hpz patch list --release 0.18.0
    """
    wanted = release or installed_release() or supported_releases()[-1]
    patches = {variant: patch_hashes(variant, wanted) for variant in all_variants()}
    if as_json:
        rows = [{"variant": v.name, "what": what(v), "patches": hashes} for v, hashes in patches.items()]
        _print_json({"release": wanted, "supported": supported_releases(), "variants": rows})
        return
    table = Table("variant", "what it is", "patches", title=f"DeepSpeed {wanted}")
    for variant, hashes in patches.items():
        table.add_row(variant.name, what(variant), "\n".join(hashes) or "none")
    console = wide_console()
    console.print(table)
    console.print(f"Supported releases: {', '.join(supported_releases())}")


@app.command()
def show(
    variant: VariantName, release: Release = None, source: Source = None, as_json: JsonOption = False
) -> None:
    """Explain a variant and show its lines as a diff.

    Example: hpz patch show event
    """
    description = describe(Variant.parse(variant), release, source)
    if as_json:
        _print_json(asdict(description))
        return
    console = wide_console()
    console.print(
        f"[bold]{description.variant}[/bold] of DeepSpeed {description.release}: {description.what}"
    )
    if not description.diff:
        console.print("The release itself: no patched lines.")
    elif console.is_terminal:
        console.print(Syntax(description.diff, "diff", word_wrap=True))
    else:
        print(description.diff, end="")


@app.command()
def path(
    variant: VariantName, release: Release = None, source: Source = None, as_json: JsonOption = False
) -> None:
    """Build the overlay if need be and print its folder, for PYTHONPATH.

    Example: PYTHONPATH=$(hpz patch path event) deepspeed train.py --deepspeed_config ds_config.json
    """
    folder = overlay_path(Variant.parse(variant), release, source)
    if as_json:
        _print_json({"variant": Variant.parse(variant).name, "path": str(folder)})
    else:
        print(folder)


@app.command("verify")
def verify_variants(
    variants: Annotated[
        list[str] | None, typer.Argument(metavar="[VARIANT]...", help="Default: all.")
    ] = None,
    release: Release = None,
    source: Source = None,
    imports: Annotated[
        bool, typer.Option(help="Also import DeepSpeed from each overlay (seconds each).")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Prove overlays again: hashes, syntax tree, and the files that Python really loads.

    Example: hpz patch verify event fixed
    """
    wanted = [Variant.parse(name) for name in variants] if variants else all_variants()
    found = []
    for variant in wanted:
        found.append(verify(variant, release, source, imports=imports))
        if not as_json:
            print(_sentence(found[-1]), flush=True)
    if as_json:
        _print_json([{**asdict(one), "path": str(one.path)} for one in found])


@app.command("rehash")
def rehash_series(
    releases: Annotated[list[str], typer.Argument(metavar="RELEASE...")],
    source: Source = None,
    check: Annotated[bool, typer.Option(help="Write nothing; fail where a hash has changed.")] = False,
) -> None:
    """Recompute the hashes in series.toml after a patch was changed on purpose.

    Example: hpz patch rehash 0.19.8 --check
    """
    for release in releases:
        series_file = load_series(release).folder / "series.toml"
        text = rehash(release, source)
        same = text == series_file.read_text()
        if check and not same:
            raise HarnessError(
                f"{series_file}: hashes are not those of the patches; run `hpz patch rehash {release}`"
            )
        if not same:
            series_file.write_text(text)
        print(f"{release}: {'as pinned' if same else 'written'}")


def _sentence(found: Verification) -> str:
    loaded = ", imported from it" if found.loaded else ""
    return f"{found.variant} of {found.release}: hashes and syntax tree as they must be{loaded}; {found.path}"


def _print_json(content: Any) -> None:
    print(json.dumps(content, indent=2))
