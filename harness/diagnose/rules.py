"""The rules of triage as data: what each sign says for or against a fault, and what to try next."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """`sign` gives `points` to `fault`, because of `reason`."""

    fault: str
    sign: str
    points: int
    reason: str


FAULTS = ("race", "missing copy", "stale secondary", "offload", "hang", "plain instability")
NEVER_EXCLUDED = ("hang", "plain instability")  # these happen without any known fault of hpZ, too

RULES: tuple[Rule, ...] = (
    Rule("race", "comes and goes", 3, "only order changes from step to step; sizes and settings do not"),
    Rule("race", "broken at once", 2, "the first secondary all-gathers may already read too early"),
    Rule("race", "broken later", 2, "it strikes without warning, whenever the all-gather is early"),
    Rule("race", "zero loss", 2, "memory that was not written yet is often zero (#5059)"),
    Rule("race", "climbs", -2, "it breaks a step; it does not build up over steps"),
    Rule("race", "gradient grows", -1, "it breaks a step; it does not build up over steps"),
    Rule("race", "exposed", 2, "release and configuration leave the order open"),
    Rule("missing copy", "broken at once", 3, "sizes alone decide, so it strikes in the first step or never"),
    Rule("missing copy", "stays broken", 1, "the same elements are missing in each step"),
    Rule("missing copy", "broken later", -3, "sizes do not change, so it cannot wait for a later step"),
    Rule("missing copy", "comes and goes", -2, "the same elements are missing in each step"),
    Rule("missing copy", "climbs", -2, "it is wrong from the first step, not more and more"),
    Rule("missing copy", "exposed", 2, "some sizes do not divide by the world size"),
    Rule(
        "stale secondary",
        "first step too high",
        3,
        "old weights are gathered once, then the new ones (#7606)",
    ),
    Rule(
        "stale secondary", "does not learn", 2, "updates do not reach the weights that are gathered (#4851)"
    ),
    Rule("stale secondary", "untrained level", 1, "the initial weights are gathered again and again"),
    Rule("stale secondary", "broken at once", -3, "old weights are finite"),
    Rule("stale secondary", "broken later", -2, "old weights are finite"),
    Rule("stale secondary", "climbs", -1, "old weights stay as good as they were"),
    Rule("stale secondary", "exposed", 2, "the release keeps secondary partitions that are out of date"),
    Rule("offload", "no gradient", 3, "nothing moves once the gathered weights are zero (#6926)"),
    Rule("offload", "stuck", 1, "reported with the loss at one value"),
    Rule(
        "offload",
        "uniform guess",
        2,
        "weights of zero predict every token alike; 11.93 is ln 152,064, a vocabulary",
    ),
    Rule("offload", "zero loss", 2, "reported with the loss at 0.0, too"),
    Rule("offload", "comes and goes", -2, "reported as constant"),
    Rule("offload", "climbs", -2, "reported as constant"),
    Rule("offload", "exposed", 2, "parameters or optimizer are offloaded together with hpZ"),
    Rule("hang", "silent", 5, "no step came for far longer than any step took"),
    Rule("plain instability", "climbs", 3, "the training itself drives the loss up, step by step"),
    Rule("plain instability", "gradient grows", 2, "large updates follow one another"),
    Rule("plain instability", "broken later", 1, "overflow follows growth"),
    Rule("plain instability", "broken at once", 1, "bad data or precision break the first step, too"),
    Rule(
        "plain instability",
        "comes and goes",
        -2,
        "after an overflow of its own a training rarely recovers at once",
    ),
    Rule("plain instability", "no known fault", 2, "no known fault of hpZ is open to this run"),
)


NEXT: dict[str, tuple[str, ...]] = {
    "race": (
        'set "overlap_comm": false for a few steps: with one stream the loss must be right',
        "upgrade to 0.13.5 or later, or put `hpz patch path event` first on PYTHONPATH",
        "prove it: hpz race --script train.py --config ds_config.json --ranks 4 shows both source lines",
    ),
    "missing copy": (
        "hpz audit MODEL_FILE --ranks-per-node R --nodes N shows which parameters",
        "upgrade to 0.13.5 or later; until then use a world size that divides all parameter sizes",
    ),
    "stale secondary": (
        "call optimizer.invalidate_secondary_tensor() after loading weights: the first loss must be right",
        "upgrade to 0.18.3 or later; from 0.10.3 to 0.13.1 nothing else helps",
    ),
    "offload": (
        "leave out offload_param and offload_optimizer for a few steps, then hpZ: which one ends it?",
        "train with one of the two; report at deepspeedai/DeepSpeed#6926 what you found",
    ),
    "hang": (
        "py-spy dump --pid PID on every rank: the rank that is not in a collective is the cause",
        "run again without zero_hpz_partition_size; set TORCH_NCCL_DUMP_ON_TIMEOUT=1 for the collectives' history",
    ),
    "plain instability": (
        "train a few steps without hpZ (zero_hpz_partition_size 1): the curve must be the same",
        "lower the learning rate tenfold or lengthen the warm-up; check the batch at the first bad step",
    ),
    "nothing": ("nothing to do; hpz doctor says what the configuration is exposed to",),
    "unrecognised": (
        "give --config, --release, --world-size, --ranks-per-node and --model: they rule faults out",
        "train a few steps without hpZ and compare",
    ),
}
