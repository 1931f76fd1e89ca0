"""What a log says beside its numbers: release, world size, precision and configuration of the run, and its errors."""

from __future__ import annotations

import json
import re
from typing import Any

from harness.diagnose.curve import Told

VERSION = r"v?(\d+\.\d+\.\d+[\w.+-]*\w|\d+\.\d+\.\d+)"
PRINTED_RELEASES = {
    # As the package itself prints it when it starts, or ds_report does.
    "deepspeed": re.compile(rf"DeepSpeed info: version={VERSION}|deepspeed info \.+ {VERSION}"),
    "torch": re.compile(rf"torch version \.+ {VERSION}"),
}
LISTED_RELEASES = {
    # As people and environment reports list it; taken where only one is listed.
    name: re.compile(
        rf"(?<![\w./-]){words}\b[`*'\"\s|]*(?:version)?[`*'\"\s]*(?:==?|:|\||@)?[`*'\"\s]*{VERSION}",
        re.IGNORECASE,
    )
    for name, words in (
        ("deepspeed", "deepspeed"),
        ("torch", "(?:py)?torch"),
        ("transformers", "transformers"),
    )
}
WORLD = (
    re.compile(r"\bworld_size\s*\.{2,}\s*(\d+)"),
    re.compile(r"\bworld[ _]size[:=]?\s*(\d+)", re.IGNORECASE),
    re.compile(r"dist_world_size=(\d+)"),
)
DTYPE = {
    "bf16": re.compile(
        r"bfloat16_enabled\s*\.+\s*True|(?<![\w.])bf16\s*[=:]?\s*[Tt]rue|--torch_dtype[= ]+bfloat16"
    ),
    "fp16": re.compile(
        r"float16_enabled\s*\.+\s*True|fp16_enabled\s*\.+\s*True|(?<![\w.])fp16\s*[=:]?\s*[Tt]rue|"
        r"--torch_dtype[= ]+float16"
    ),
}
PRINTED = re.compile(r"\bjson = (?=\{)")
LOGGED = re.compile(r"^\[\d{4}-\d\d-\d\d [^\]]*\] \[[A-Z]+\] \[[^\]]*\] ?", re.MULTILINE)
OVERFLOW = re.compile(
    r"OVERFLOW! Rank \d+ Skipping step|Overflow detected\. Skipping step|Grad overflow on iteration|"
    r"number of skipped iterations:\s*[1-9]",
    re.IGNORECASE,
)
SCALE = re.compile(r"\bloss[ _]scale[:=]\s*(\d[\d.]*(?:[eE][+-]?\d+)?)", re.IGNORECASE)
SKIPPED = re.compile(r"\[Rank 0\] step=(\d+), skipped=(\d+)")
ZERO_CONFIG = re.compile(r"zero_config \.+ (.*stage=.*)$", re.MULTILINE)
ZERO_KEY = re.compile(r"(?<![\w.(])(\w+)=(\d+(?:\.\d+)?|True|False)\b")
OFFLOADED = re.compile(r"(offload_param|offload_optimizer)=\w+\(device=(?:<[^:]*: )?'(\w+)'")
NAMED = re.compile(r"(?:--|^\s*)deepspeed(?:_config)?[=:\s]+['\"]?([\w./-]+)", re.MULTILINE)
ERROR = re.compile(
    r"^.*?(?:\bException: |(?:[A-Z]\w{0,40}|\b\w{1,40}\.)(?:Error|Exception|Timeout)\b[:(]|"
    r"Watchdog caught collective operation timeout|Timed out initializing process group|"
    r"CUDA out of memory|NCCL (?:error|WARN)|extra fields not permitted|"
    r"Extra inputs are not permitted).*$",
    re.MULTILINE,
)
A_LOG = re.compile(
    r"\[(?:INFO|WARNING|ERROR)\]|\bINFO\b|Traceback \(most recent call last\)|\[deepspeed\]|\|\s*\d+/\d+ \[",
    re.IGNORECASE,
)
DEEPSPEED = re.compile(r"deepspeed|zero[_ -]?(?:stage|optimization|[123]\b)|stage3_|\bhpz\b", re.IGNORECASE)
OTHERS = {
    # Marks of frameworks that train without DeepSpeed by themselves.
    "torchtitan": re.compile(r"\[titan\]|\btorchtitan\b"),
    "Megatron-LM": re.compile(r"\bmegatron\b|elapsed time per iteration \(ms\):", re.IGNORECASE),
    "nanotron": re.compile(
        r"\bnanotron\b|lm_loss: .*\| (?:tokens_per_sec|consumed_tokens)|consumed_tokens: "
    ),
    "Lightning": re.compile(
        r"\b(?:pytorch_lightning|lightning\.pytorch|lightning\.fabric)\b|GPU available: \w+.*used: |"
        r"LOCAL_RANK: \d+ - CUDA_VISIBLE_DEVICES"
    ),
    "torchtune": re.compile(r"\btorchtune\b"),
    "NeMo": re.compile(r"\[NeMo [IWE]\b|\bnemo_logging\b"),
    "fairseq": re.compile(r"\| fairseq|fairseq_cli|\bnum_updates=?\b.*\bwps\b"),
    "Composer": re.compile(r"\bcomposer\.(?:trainer|utils|loggers)\b|\bllmfoundry\b"),
    "Keras": re.compile(r"^\s*\d+/\d+ (?:\[=|\u2501)", re.MULTILINE),
    "JAX": re.compile(r"\b(?:MaxText|maxtext|jax\._src|flax\.training)\b|completed step: \d+, seconds: "),
}
KEPT = (
    *("stage", "overlap_comm", "reduce_bucket_size", "contiguous_gradients", "zero_hpz_partition_size"),
    *(
        "zero_quantized_weights",
        "zero_quantized_gradients",
        "mics_shard_size",
        "use_multi_rank_bucket_allreduce",
    ),
    *("param_persistence_threshold", "prefetch_bucket_size", "max_live_parameters", "max_reuse_distance"),
)
ERRORS = 20  # are kept at most


def told_by(text: str) -> Told:
    """What a log says of its run."""
    return Told(
        release=_version("deepspeed", text),
        torch=_version("torch", text),
        transformers=_version("transformers", text),
        world_size=next((int(found[1]) for pattern in WORLD if (found := pattern.search(text))), None),
        dtype=next((name for name, pattern in DTYPE.items() if pattern.search(text)), None),
        config=_printed_config(text) or _printed_zero(text),
        names_config=_named_config(text),
        scaled=_scaled(text),
        framework=_framework(text),
    )


def _framework(text: str) -> str:
    """The framework that wrote a log which names no DeepSpeed; empty where no mark of one is there."""
    if DEEPSPEED.search(text):
        return ""
    return next((name for name, mark in OTHERS.items() if mark.search(text)), "")


def _version(package: str, text: str) -> str | None:
    """The release of a package: as it prints it itself, else as the text lists it, where it lists but one."""
    if package in PRINTED_RELEASES and (printed := _first(PRINTED_RELEASES[package].search(text))):
        return printed
    listed = dict.fromkeys(LISTED_RELEASES[package].findall(text))
    return next(iter(listed)) if len(listed) == 1 else None


def errors_in(text: str) -> tuple[str, ...]:
    """Lines that say what went wrong, each once, without the prefix that a launcher puts before them."""
    lines = (
        re.sub(r"^\[?rank\s*\d+\]?:\s*", "", found[0].strip(), flags=re.IGNORECASE)
        for found in ERROR.finditer(text)
    )
    return tuple(dict.fromkeys(lines))[:ERRORS]


def overflows_in(text: str) -> int:
    """Times that a step was skipped for an overflow."""
    counted = [int(skipped) for _, skipped in SKIPPED.findall(text)]
    return max([len(OVERFLOW.findall(text)), *counted])


def is_log(text: str) -> bool:
    """Whether a text without a curve is a training's output all the same."""
    return bool(A_LOG.search(text) or errors_in(text))


def _first(found: re.Match[str] | None) -> str | None:
    return next((group for group in found.groups() if group), None) if found else None


def _printed_config(text: str) -> dict[str, Any] | None:
    """The configuration that DeepSpeed prints when it starts, `json = {…}`; None where it is cut off."""
    found = PRINTED.search(text)
    if found is None:
        return None
    rest = LOGGED.sub("", text[found.end() :])
    try:
        content, _ = json.JSONDecoder().raw_decode(rest)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _printed_zero(text: str) -> dict[str, Any] | None:
    """As DeepSpeed prints ZeRO's settings by themselves, for a log whose JSON was cut off."""
    found = ZERO_CONFIG.search(text)
    if found is None:
        return None
    zero: dict[str, Any] = {key: json.loads(value.lower()) for key, value in ZERO_KEY.findall(found[1])}
    zero |= {key: {"device": device} for key, device in OFFLOADED.findall(found[1]) if device != "none"}
    known = {key: value for key, value in zero.items() if key in KEPT or key.startswith("offload")}
    return {"zero_optimization": known}


def _named_config(text: str) -> str | None:
    """The configuration that command lines and recipes in the log name, where it is one."""
    named = {found[1] for found in NAMED.finditer(text)}
    return named.pop() if len(named) == 1 else None


def _scaled(text: str) -> bool | None:
    scales = [float(scale) for scale in SCALE.findall(text)]
    return any(scale != 1 for scale in scales) if len(scales) > 1 else None
