"""Cross-check on the release that the paper's authors met: real DeepSpeed 0.13.4, aligned and unaligned sizes.

    python -m harness.launch.historical

0.13.4 is fetched once, and its overlay carries what it needs on a present-day torch; nothing is installed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from pathlib import Path

from harness.system.child import discard, last_words
from harness.system.errors import HarnessError, RunFailed
from harness.system.places import REPOSITORY
from harness.system.ports import free_port
from harness.variants import Variant, overlay_path

RELEASE = "0.13.4"
WORLD_SIZE = 4
HPZ = 2
STEPS = 6
VARIANTS = ("zero3", "stock", "fixed")
HIDDEN = {"aligned": 16, "unaligned": 33}
"""Width of the toy network: every parameter of the first divides by the world size, most of the second do not."""
TIMEOUT_S = 180


def main(arguments: list[str] | None = None) -> int:
    """Runs the six trainings, prints a table (or JSON), and returns 0 when 0.13.4 did what is known of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="machine-readable output on standard output")
    parser.add_argument(
        "--source", type=Path, help="the release's `deepspeed` package folder, where pip cannot fetch"
    )
    options = parser.parse_args(arguments)
    try:
        losses = {(shape, name): train(shape, name, options.source) for shape in HIDDEN for name in VARIANTS}
    except (HarnessError, RunFailed) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, HarnessError) else 1
    unexpected = findings(losses)
    if options.json:
        runs = [{"shape": s, "variant": v, "losses": _finite(row)} for (s, v), row in losses.items()]
        print(json.dumps({"release": RELEASE, "runs": runs, "unexpected": unexpected}, indent=2))
    else:
        _print_table(losses, unexpected)
    return 1 if unexpected else 0


def train(shape: str, variant: str, source: Path | None = None) -> list[float]:
    """Losses of rank 0 over a few steps of a toy network on four gloo ranks. Raises RunFailed, HarnessError."""
    overlay = overlay_path(Variant.parse(variant), RELEASE, source)
    hpz = HPZ if Variant.parse(variant).hpz else 1
    command = [
        sys.executable,
        "-m",
        "harness.launch.historical_rank",
        str(HIDDEN[shape]),
        str(hpz),
        str(STEPS),
    ]
    port = free_port()
    ranks = [
        subprocess.Popen(
            command, env=_environment(overlay, rank, port), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for rank in range(WORLD_SIZE)
    ]  # fmt: skip
    try:
        outputs = [rank.communicate(timeout=TIMEOUT_S)[0] for rank in ranks]
    except subprocess.TimeoutExpired as error:
        raise RunFailed(f"DeepSpeed {RELEASE}, {variant}, {shape}: no end after {TIMEOUT_S} s") from error
    finally:
        for rank in ranks:
            discard(rank)
    return _losses(outputs, f"DeepSpeed {RELEASE}, {variant}, {shape}")


def findings(losses: dict[tuple[str, str], list[float]]) -> list[str]:
    """What is not as known of 0.13.4; empty when all is.

    On a CPU nothing is asynchronous, so that only the missing copy can show: stock is ZeRO-3 on aligned sizes
    and not a number from step 0 on unaligned ones; with the copy of 0.13.5 both are ZeRO-3 to the last bit.
    """
    found = [
        f"{variant} differs from zero3 on {shape} sizes"
        for shape, variant in (("aligned", "stock"), ("aligned", "fixed"), ("unaligned", "fixed"))
        if losses[shape, variant] != losses[shape, "zero3"]
    ]
    if not math.isnan(losses["unaligned", "stock"][0]):
        found.append("stock is finite at step 0 on unaligned sizes")
    return found


def _environment(overlay: Path, rank: int, port: int) -> dict[str, str]:
    here = str(REPOSITORY)
    own = {
        "PYTHONPATH": os.pathsep.join([str(overlay), here]),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(WORLD_SIZE),
        "LOCAL_SIZE": str(WORLD_SIZE),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
    }
    return {**os.environ, **own}


def _losses(outputs: list[str], what: str) -> list[float]:
    line = next((line for line in outputs[0].splitlines() if line.startswith("LOSSES ")), None)
    if line is None:
        last = "; ".join(f"rank {rank}: {last_words(output)}" for rank, output in enumerate(outputs))
        raise RunFailed(f"{what}: ended without losses; last words by rank: {last}")
    return [float(loss) for loss in json.loads(line.removeprefix("LOSSES "))]


def _finite(losses: list[float]) -> list[float | None]:
    return [loss if math.isfinite(loss) else None for loss in losses]


def _print_table(losses: dict[tuple[str, str], list[float]], unexpected: list[str]) -> None:
    print(f"DeepSpeed {RELEASE} on this machine's torch: {WORLD_SIZE} gloo ranks, hpZ {HPZ}, {STEPS} steps")
    for (shape, variant), row in losses.items():
        print(f"{shape:>9} {variant:<6} " + " ".join(f"{loss:.6f}" for loss in row))
    print(
        "\n".join(unexpected)
        or "As known: stock is NaN from step 0 on unaligned sizes, all else equals ZeRO-3."
    )


if __name__ == "__main__":
    sys.exit(main())
