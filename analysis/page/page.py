"""What the report says, as plain values: answers from the verdicts, tables for reading, sections hidden without data.

Nothing here is HTML; the templates under analysis/page/templates lay it out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from analysis.draw.style import RANK, SIGNS
from analysis.judge.clock import clock_sentence
from analysis.judge.convergence import FEWEST_SEEDS
from analysis.judge.race_matrix import race_sentence
from analysis.judge.settings import settings, shape_text
from analysis.judge.summary import LEVELS, SOUND, moved, zero3_beside
from analysis.judge.wire import wire_sentence

Record = Mapping[str, Any]
FIX_TIMED = ("multi-node", "one-gpu")  # levels at which step seconds say something about the fix
WHO = {  # in the order of the first screen
    "stock": "hpZ as in DeepSpeed 0.13.4 and before",
    "unordered": "hpZ of DeepSpeed 0.13.5 or later without its synchronise",
    "fixed": "hpZ as in DeepSpeed 0.13.5 and later",
    "event": "hpZ with an event in place of the synchronise",
    "sync-only": "old hpZ with the synchronise alone",
    "device-sync": "hpZ with a device-wide synchronise",
    "event+step": "as event, and the gather waits for the optimizer's write, too",
    "zero3": "ZeRO-3 without hpZ, under other orders than its baseline",
    "zero3+step": "ZeRO-3 whose gather waits for the optimizer's write",
}


NOT_RUN = "not run"


@dataclass(frozen=True)
class Answer:
    """One row of the first screen."""

    variant: str
    who: str
    sign: str  # safe, unsafe, untested
    safety: str
    cost: str
    evidence: str


def answers(summary: Record) -> list[Answer]:
    """Each variant, named ones first: does it train as its baseline does, and what does that cost?"""
    order = sorted(summary["variants"], key=lambda one: [*WHO, one["variant"]].index(one["variant"]))
    return [_answer(one, summary) for one in order]


def _answer(one: Record, summary: Record) -> Answer:
    sign = {True: "safe", False: "unsafe", None: "untested"}[one["safe"]]
    pairs = [pair for pair in summary["pairs"] if pair["variant"] == one["variant"]]
    who = WHO.get(one["variant"], "another point of the ablation")
    return Answer(
        one["variant"],
        who,
        sign,
        _safety(one, pairs, summary["pairs"]),
        _cost(one, pairs),
        ", ".join(one["evidence"]),
    )


def _safety(one: Record, pairs: list[Record], every: list[Record]) -> str:
    judged = one["pairs"] - one["not_judged"]
    missing = f"; {one['not_judged']} more not run" if one["not_judged"] else ""
    if not judged:
        return "Nothing was run."
    if one["safe"] is False:
        failed = [pair for pair in pairs if pair["verdict"] and pair["verdict"] not in SOUND]
        words = _count_words({v: n for v, n in one["verdicts"].items() if v not in SOUND})
        first = min(pair["first_bad_step"] for pair in failed)
        alike = sum(zero3_beside(pair, every) in ("drifted", "diverged") for pair in failed)
        shared = f", where ZeRO-3 itself fails in {'all' if alike == len(failed) else alike}" if alike else ""
        shared = "" if one["variant"].startswith("zero3") else shared
        return f"{words} in {len(failed)} of {judged} pairs, the earliest at step {first}{shared}{missing}."
    words = _count_words(one["verdicts"])
    if changed := sum(map(moved, pairs)):
        return f"{words}: an order changed values in {changed} of {judged} pairs, inside the band of seeds{missing}."
    if one["safe"] is None:
        return f"{words}, but only where nothing could run out of order{missing}."
    return f"{words}: as its baseline in all {judged} pairs{missing}."


def _count_words(verdicts: Mapping[str, int]) -> str:
    words = [f"{verdict} ({count})" for verdict, count in verdicts.items() if count]
    return (" and ".join(words) or "none").capitalize()


def _cost(one: Record, pairs: list[Record]) -> str:
    extra = one["extra_host_syncs_per_step"]
    waits = "" if extra is None else f"{_signed(extra)} host waits per step"
    timed = [pair for pair in pairs if pair["evidence"] in FIX_TIMED and pair["step_seconds_ratio"]]
    if timed:
        ratios = sorted(pair["step_seconds_ratio"]["median"] for pair in timed)
        low, high = ratios[0], ratios[-1]
        times = f"{low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {high:.2f}"
        return f"{times} × the baseline's step time; {waits}".rstrip("; ")
    return waits or "not counted"


def _signed(value: float) -> str:
    return "no extra" if abs(value) < 0.005 else f"{value:+.3g}".replace("-", "−")


def ran(summary: Record) -> bool:
    """Whether losses are the matter; not so where the study was simulated or analysed and nothing else."""
    other = summary["simulated"] or summary["races"]
    return not other or any(pair["verdict"] for pair in summary["pairs"])


def headline(summary: Record) -> str:
    """One sentence that answers whether a configuration is safe."""
    if not ran(summary):
        parts = [race_sentence(summary["races"])] if summary["races"] else []
        parts += [clock_sentence(summary["simulated"])] if summary["simulated"] else []
        return " ".join(["No losses were compared." if summary["races"] else "Nothing was run.", *parts])
    found = answers(summary)
    parts = []
    for sign, words in (("unsafe", "Not safe"), ("safe", "Safe in this study"), ("untested", "Not settled")):
        names = [answer.variant for answer in found if answer.sign == sign]
        known = [name for name in names if name in WHO]
        if others := len(names) - len(known):
            known.append(f"{others} more point{'s' if others > 1 else ''} of the ablation")
        if known:
            parts.append(f"{words}: {_and(known)}.")
    speed = wire_sentence(summary["wire"])
    return " ".join([*parts, speed] if speed else parts) or "Nothing was judged yet."


def _and(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


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
            (pair["model"], pair["device"], pair["gradient_accumulation"], pair["link"], _ranks(pair)), []
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
    variants = dict.fromkeys((pair["variant"], pair["shape"]["hpz"]) for pair in pairs)
    rows = []
    for variant, hpz in variants:
        mine = [pair for pair in pairs if (pair["variant"], pair["shape"]["hpz"]) == (variant, hpz)]
        label = f"{variant} (hpZ {hpz})" if len(sizes) > 1 and hpz > 1 else variant
        rows.append(
            (label, [_cell([pair for pair in mine if pair["schedule"] == column]) for column in columns])
        )
    return Grid(title, _alignment(pairs), ", ".join(_levels(pairs)), columns, rows)


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


def _levels(pairs: Iterable[Record]) -> list[str]:
    return sorted({pair["evidence"] for pair in pairs}, key=LEVELS.index)


def _cell(pairs: list[Record]) -> Cell | None:
    if not pairs:
        return None
    worst = max(pairs, key=lambda pair: RANK[pair["verdict"]])
    verdict = worst["verdict"]
    if verdict is None:
        return Cell(None, SIGNS[None], "not judged", worst["reason"])
    text = verdict if verdict in SOUND else f"{verdict} at {worst['first_bad_step']}"
    text += ", no band" if verdict == "drifted" and not worst["band"] else ""
    if len(pairs) > 1:
        same = sum(pair["verdict"] == verdict for pair in pairs)
        text += f" ({same} of {len(pairs)} seeds)"
    return Cell(verdict, SIGNS[verdict], text, worst["reason"])


def pair_rows(summary: Record) -> list[dict[str, Any]]:
    """One line a pair with its numbers, for the long table and the Markdown report."""
    return [
        {
            "run": pair["run_id"],
            "model": pair["model"],
            "variant": pair["variant"],
            "shape": shape_text(pair["shape"]),
            "policy": pair["schedule"],
            "settings": setting,
            "seed": pair["seed"],
            "verdict": pair["verdict"],
            "sign": SIGNS[pair["verdict"]],
            "reason": pair["reason"],
            "first bad step": number(pair["first_bad_step"]),
            "skipped steps": number(pair["skipped_steps"]),
            "max |Δ loss|": number(pair["max_abs_loss_difference"]),
            "secondary gathers / step": number(pair["secondary_gathers_per_step"]),
            "host waits / step": number(pair["host_syncs_per_step"]),
            "to other nodes / step": size(pair["bytes_inter_per_step"]),
            "step time ratio": interval(pair["step_seconds_ratio"]),
            "evidence": pair["evidence"],
        }
        for pair, setting in zip(summary["pairs"], settings(summary["pairs"]), strict=True)
    ]


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def size(value: float | None) -> str:
    """Bytes, readable."""
    if value is None:
        return "–"
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 1000:
            return f"{value:.4g} {unit}"
        value /= 1000
    return f"{value:.4g} TB"


def interval(ratio: Record | None) -> str:
    if ratio is None:
        return "–"
    middle = ratio.get("median", ratio.get("estimate"))
    ends = "" if ratio["low"] is None else f" [{ratio['low']:.3g}, {ratio['high']:.3g}]"
    spread = f", IQR {ratio['spread']:.2g}" if "spread" in ratio else ""
    odd = f", {ratio['outliers']} stand out" if ratio.get("outliers") else ""
    return f"{middle:.3g}{ends}, n={ratio['n']}{spread}{odd}"


def seed_rows(summary: Record) -> list[dict[str, Any]]:
    """Final-window loss differences of pairs run with several seeds."""
    return [
        {**group, "shape": shape_text(group["shape"]), "difference": interval(group["final_loss_difference"])}
        for group in summary["groups"]
        if len(group["seeds"]) > 1
    ]


def faults(summary: Record) -> list[dict[str, str]]:
    """Why stock fails in two ways: each statement with what this study shows of it; empty where it shows neither."""
    found = [
        {
            "name": "The missing copy",
            "says": "The old copy leaves elements of the secondary tensor unwritten wherever the world size does not "
            "divide a parameter's size. No other stream is needed: it fails in program order, too.",
            "shown": _shown(summary, variants=("stock",), aligned=False, policies=("eager", "native")),
            "contrast": _shown(summary, variants=("stock",), aligned=True, policies=("eager", "native")),
            "test": "stock in program order, on unaligned sizes",
            "control": "the same on aligned sizes, where the old copy is right",
        },
        {
            "name": "The race",
            "says": "Nothing orders the all-gather after the copy that it reads. On aligned sizes the copy itself is "
            "right, so whatever goes wrong there is the order, and program order hides it.",
            "shown": _shown(summary, variants=("unordered", "stock"), aligned=True, policies=None),
            "contrast": _shown(summary, variants=("fixed", "event"), aligned=True, policies=None),
            "test": "stock and unordered on aligned sizes, out of program order",
            "control": "the same with the order restored (fixed, event)",
        },
    ]
    return found if any(fault["shown"] != NOT_RUN for fault in found) else []


def _shown(
    summary: Record, variants: tuple[str, ...], aligned: bool, policies: tuple[str, ...] | None
) -> str:
    pairs = [
        pair
        for pair in summary["pairs"]
        if pair["variant"] in variants
        and pair["model_aligned"] is aligned
        and pair["verdict"]
        and (pair["policy"] in policies if policies else pair["policy"] not in ("eager", "native"))
    ]
    if not pairs:
        return NOT_RUN
    counts = {verdict: sum(pair["verdict"] == verdict for pair in pairs) for verdict in list(RANK)[1:]}
    levels = ", ".join(_levels(pairs))
    return f"{_count_words({k: v for k, v in counts.items() if k}).lower()} of {len(pairs)} pairs ({levels})"


def band_note(summary: Record) -> str:
    """How strong the tolerance bands are, against what the rule asks for."""
    rule = summary["rule"]
    words = (
        "Decided by the rule that the study stated before its runs: "
        f"the first {rule['warmup_steps_dropped']} steps are left out of timings and counts, "
        f"a band needs {rule['minimum_seeds']} baseline seeds, "
        f"and {rule['stuck_steps']} equal losses and gradient norms in a row are stuck. "
    )
    level = rule["minimum_seeds"] / (rule["minimum_seeds"] + 1)
    if level < rule["confidence"]:
        words += (
            f"A band of {rule['minimum_seeds']} seeds holds one more seed with probability {level:.0%} at least, "
            f"less than the {rule['confidence']:.0%} of the other intervals."
        )
    return " ".join([words.strip(), *no_band(summary)])
