"""What each word means, for somebody who trains models and has not met it."""

from __future__ import annotations

import re

from harness.system.errors import HarnessError, nearest

WORDS = {
    "all-gather": (
        "A collective operation after which every GPU of a group has the pieces of all. ZeRO-3 fetches a "
        "layer's weights by one, before the layer runs."
    ),
    "baseline": (
        "The run that another is compared with: it has the same model, data, seed and shape, and differs in"
        " the variant alone."
    ),
    "bucket": ("Gradients that are put together in one buffer, so that one collective reduces them all."),
    "calibration": "Measuring a machine and fitting the cost model's constants to it: `hpz calibrate`.",
    "claim": (
        "A sentence of the paper, kept word for word in results/paper/claims.yaml, with what this project's"
        " numbers say to it."
    ),
    "collective": (
        "An operation that all GPUs of a group do together, such as an all-gather or an all-reduce."
    ),
    "diverged": "A verdict: the loss is NaN, infinite or stuck.",
    "drifted": (
        "A verdict: the loss is finite, but outside the band of the baseline's own seeds; with too few "
        "seeds for a band, not bit-equal."
    ),
    "equivalent": (
        "A verdict: not bit-equal, but inside the band in which the baseline's own seeds lie at every "
        "step; beside it stands the drift that would have shown."
    ),
    "event": (
        "A mark in a GPU's stream that another stream can wait for. Also the variant of hpZ whose copy is "
        "ordered by events: the host waits for nothing."
    ),
    "evidence level": (
        "How a number was obtained, from `multi-node` (strongest) to `simulated-time`; see the levels."
    ),
    "exact": "A verdict: every loss and gradient norm is equal to the baseline's, to the last bit.",
    "fixed": (
        "The variant that DeepSpeed ships since 0.13.5: the right copy, and the host waits after each."
    ),
    "freed while in use": (
        "Memory that was given back while another stream was still at it, so that the allocator may hand it"
        " out again too early; what `record_stream` prevents."
    ),
    "happens before": (
        "What is certain to be done first: by the order of a stream, by events, or because the host waited."
        " Two accesses of which neither happens before the other may come in either order."
    ),
    "hpZ": (
        "Hierarchical partitioning of ZeRO++: a second copy of the weights' pieces inside each node, so "
        "that the backward pass fetches over the node's own links."
    ),
    "host": "The CPU process that hands work to a GPU.",
    "main-first": (
        "The policy that lets the default stream go ahead of all side streams wherever nothing orders them."
    ),
    "missing copy": (
        "The other fault of stock hpZ: elements of the secondary tensor that its copy never writes, where "
        "the number of ranks does not divide a parameter's size."
    ),
    "order": (
        "What makes one piece of work wait for another. Also an axis of the variants: none, stream-sync, "
        "device-sync or event."
    ),
    "overlap_comm": (
        "DeepSpeed's setting that lets communication run on streams of its own, beside computation."
    ),
    "overlay": (
        "A copy of an installed DeepSpeed with one variant's lines, put first on PYTHONPATH; the installed "
        "one stays as it is."
    ),
    "pair": "A run and its baseline.",
    "partition": "The piece of a weight that one GPU keeps under ZeRO-3.",
    "pct(1)": (
        "The policy that gives each stream a random priority, drawn from the number, and lets it fall at a few "
        "random points."
    ),
    "pinned memory": "Memory of the host that a GPU can read by itself, while the host goes on.",
    "policy": (
        "The rule by which the virtual device orders what nothing orders: `eager`, `side-first`, `main-"
        "first`, `random(seed)` or `timed`."
    ),
    "race": (
        "Two accesses to the same memory, at least one a write, that nothing orders: which comes first is "
        "chance."
    ),
    "random(1)": (
        "The policy that lets chance, seeded with the number, choose which stream goes on wherever nothing "
        "orders them."
    ),
    "rank": "One process of a training, usually one GPU.",
    "read of unwritten memory": (
        "Memory that nobody has written since it was handed out is computed with: what comes out is chance."
    ),
    "replay": (
        "A file that holds one order under which values change; `hpz race --replay FILE` runs it again, to "
        "the bit; with another Python, torch or processor it is held against the order of issue there."
    ),
    "run": "One cell of a study. Its id hashes everything in the study that can change its numbers.",
    "secondary tensor": (
        "hpZ's second copy of a weight's piece, spread over the GPUs of one node only. Also called "
        "secondary partition."
    ),
    "side-first": (
        "The policy that lets side streams go ahead of the default stream wherever nothing orders them."
    ),
    "stall": (
        "On a GPU: microseconds that the compute stream is held before each copy on the device; loses no "
        "order."
    ),
    "stock": (
        "The variant with the old copy and nothing that orders it: what the paper calls stock. It has two "
        "faults."
    ),
    "stream": (
        "A queue of work on a GPU. Work in one stream is done in order; between two streams there is no "
        "order, unless the program makes one."
    ),
    "study": "One YAML file: models × variants × cluster shapes × seeds, with training settings.",
    "swapped pair": (
        "Two accesses that nothing orders, run the other way round by the virtual device to see what changes."
    ),
    "synchronise": "To let the host wait until a stream, or the whole GPU, is done.",
    "unordered": "The variant with the right copy and nothing that orders it: the race alone.",
    "variant": (
        "A point of copy {old, new} × order {none, stream-sync, device-sync, event} × step {none, event} × "
        "load {none, event}, or `zero3` (hpZ off). `event+step` also orders the optimizer's copy before the"
        " next step's first gather, `event+step+load` what was written between two passes, as by a "
        "checkpoint."
    ),
    "verdict": "What a pair shows: exact, equivalent, drifted or diverged.",
    "virtual device": (
        "CPU cores that run a program for GPUs, with every stream's work in any order that CUDA would allow."
    ),
    "ZeRO-3": (
        "DeepSpeed's stage 3: each GPU keeps a piece of every weight, gradient and optimizer state, and "
        "fetches the others' pieces when it needs them."
    ),
}

# What a message may name to somebody who has not met it, and how else it is written; nothing that is plain English.
TERMS = {
    "all-gather": "all-gathers?",
    "bucket": "buckets?",
    "collective": "collectives?",
    "host": "(?<!one )host",
    "hpZ": "hpZ",
    "main-first": "main-first",
    "overlap_comm": "overlap_comm",
    "overlay": "overlays?",
    "partition": "(?<!secondary )partitions?",
    "pinned memory": "pinned memory",
    "random(1)": r"random\(\d+\)",
    "rank": "ranks?",
    "secondary tensor": "secondary (?:tensors?|partitions?|cop(?:y|ies))",
    "side-first": "side-first",
    "stream": "streams?",
    "swapped pair": "swapped pairs?",
    "synchronise": "synchroni[sz]es?",
    "ZeRO-3": "ZeRO(?: |-)?(?:stage )?3",
}


def explained(text: str) -> dict[str, str]:
    """The terms that a message names, in the order of their first mention, with one plain sentence for each."""
    found = {term: re.search(rf"(?<![\w-])(?:{written})(?![\w-])", text) for term, written in TERMS.items()}
    named = sorted((match.start(), term) for term, match in found.items() if match)
    return {term: WORDS[term].split(". ")[0].removesuffix(".") for _, term in named}


def counted(count: int, thing: str) -> str:
    """`1 step`, `2 steps`, `2 losses`."""
    return f"{count} {thing}{'' if count == 1 else 'es' if thing.endswith('s') else 's'}"


def meaning(word: str) -> tuple[str, str]:
    """The word as the glossary writes it, and what it means. Raises HarnessError with the nearest word."""
    found = {name.lower(): name for name in WORDS}
    asked = " ".join(word.lower().split())
    name = found.get(asked) or found.get(
        re.sub(r"\(\d[\d,]*\)$", "(1)", asked)
    )  # whatever a policy's numbers are
    if name is None:
        raise HarnessError(f"{word!r} is no word of the glossary; {nearest(word, WORDS)}")
    return name, WORDS[name]
