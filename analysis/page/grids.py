"""The verdict table of the page: grids of variants by order, and how strong the bands are that decided them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from analysis.draw.style import SIGNS
from analysis.judge.axes import axes_text
from analysis.judge.band import FEWEST_SEEDS
from analysis.judge.evidence import LEVELS, RANK, SOUND

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """The verdicts of the pairs that differ in the seed alone; the worst is shown."""

    verdict: str | None
    sign: str
    text: str
    detail: str


@dataclass(frozen=True)
class Grid:
    """Verdicts of one model and shape: rows are variants, columns policies."""

    title: str
    note: str
    evidence: str
    columns: list[str]
    rows: list[tuple[str, list[Cell | None]]]


def grids(summary: Record) -> list[Grid]:
    """The verdict table, one grid for each model, shape, device and accumulation."""
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for pair in summary["pairs"]:
        groups.setdefault(
            (
                *(pair[name] for name in ("model", "device", "gradient_accumulation", "link")),
                _ranks(pair),
                axes_text(pair["axes"]),
            ),
            [],
        ).append(pair)
    return [_grid(pairs) for pairs in groups.values()]


def _ranks(pair: Record) -> str:
    return f"{pair['shape']['nodes']} × {pair['shape']['ranks_per_node']} ranks"


def _grid(pairs: list[Record]) -> Grid:
    first = pairs[0]
    columns = list(dict.fromkeys(pair["schedule"] for pair in pairs))
    sizes = sorted({pair["shape"]["hpz"] for pair in pairs} - {1})
    title = f"{first['model']}, {_ranks(first)}" + (f", hpZ {', '.join(map(str, sizes))}" if sizes else "")
    title += f", accumulation {first['gradient_accumulation']}" if first["gradient_accumulation"] > 1 else ""
    title += f", link {first['link']}" if first["link"] else ""
    title += f", {further}" if (further := axes_text(first["axes"])) else ""
    variants = dict.fromkeys((pair["variant"], pair["shape"]["hpz"]) for pair in pairs)
    rows = []
    for variant, hpz in variants:
        mine = [pair for pair in pairs if (pair["variant"], pair["shape"]["hpz"]) == (variant, hpz)]
        label = f"{variant} (hpZ {hpz})" if len(sizes) > 1 and hpz > 1 else variant
        rows.append(
            (label, [_cell([pair for pair in mine if pair["schedule"] == column]) for column in columns])
        )
    return Grid(title, _alignment(pairs), ", ".join(levels_of(pairs)), columns, rows)


def _alignment(pairs: list[Record]) -> str:
    if pairs[0]["model_aligned"]:
        return "Aligned: the world size divides every parameter, so only the order can go wrong"
    count = pairs[0]["unaligned_parameters"]
    return f"Unaligned: the world size does not divide {count} parameters, so the old copy leaves elements unwritten"


def no_band(summary: Record) -> list[str]:
    """For each model whose drifts were held against no tolerance band: why there is none."""
    asked = max(summary["rule"]["minimum_seeds"], FEWEST_SEEDS)
    drifts = (pair for pair in summary["pairs"] if pair["verdict"] == "drifted" and not pair["band"])
    reasons = {
        pair["model"]: f"{pair['baseline_seeds']} of {asked} baseline seeds"
        if pair["baseline_seeds"] < asked
        else "a baseline seed diverged"
        for pair in drifts
    }
    return [
        f"No band for {model}: {reason}, so drifted says that its losses are not bit-equal, and no more."
        for model, reason in reasons.items()
    ]


def levels_of(pairs: Iterable[Record]) -> list[str]:
    return sorted({pair["evidence"] for pair in pairs}, key=LEVELS.index)


def _cell(pairs: list[Record]) -> Cell | None:
    if not pairs:
        return None
    worst = max(pairs, key=lambda pair: RANK[pair["verdict"]])
    verdict = worst["verdict"]
    if verdict is None:
        return Cell(None, SIGNS[None], "not judged", worst["reason"])
    text = verdict if verdict in SOUND else f"{verdict} at {worst['first_bad_step']}"
    if verdict == "equivalent":
        text += f" ±{max(pair['smallest_drift'] or 0 for pair in pairs):.2g}"
    text += ", no band" if verdict == "drifted" and not worst["band"] else ""
    if len(pairs) > 1:
        same = sum(pair["verdict"] == verdict for pair in pairs)
        text += f" ({same} of {len(pairs)} seeds)"
    return Cell(verdict, SIGNS[verdict], text, worst["reason"])


def band_note(summary: Record) -> str:
    """How strong the tolerance bands are, against what the rule asks for."""
    rule = summary["rule"]
    words = (
        "Decided by the rule that the study stated before its runs: "
        f"the first {rule['warmup_steps_dropped']} steps are left out of timings and counts, "
        f"a band needs {rule['minimum_seeds']} baseline seeds, "
        f"and {rule['stuck_steps']} equal losses and gradient norms in a row are stuck. "
    )
    words += (
        f"A band holds one more seed at all steps together with probability {rule['confidence']:.0%}; beside each "
        "equivalence stands how far (nats per token) a loss must be off over the last half of the steps to be seen "
        "with 95 %. "
    )
    return " ".join([words.strip(), *no_band(summary)])
