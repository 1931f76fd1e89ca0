"""Packages whose kernels need a real GPU, and what a user of each switches off."""

from __future__ import annotations

import re
import sys
import traceback

NATIVE = {
    "flash_attn": 'attn_implementation="sdpa" (or the script\'s own switch for flash attention)',
    "flash_attn_2_cuda": 'attn_implementation="sdpa"',
    "bitsandbytes": "load_in_4bit, load_in_8bit and 8-bit optimizers (optim=adamw_torch)",
    "apex": "apex's layers and optimizers (torch's own are taken where the script offers a choice)",
    "transformer_engine": "FP8 and transformer_engine's layers",
    "xformers": "memory-efficient attention of xformers",
    "triton": "kernels written in triton",
    "liger_kernel": "use_liger_kernel",
    "vllm": "use_vllm, so that the model itself generates",
    "unsloth": "unsloth's kernels",
    "mamba_ssm": "the fused Mamba kernels",
    "causal_conv1d": "the fused convolution of Mamba",
}


def hide_native() -> None:
    """Let these packages not be found, so that libraries take the branch without them; who asks for one is told."""
    for package in NATIVE:
        if package not in sys.modules:
            sys.modules[package] = None  # type: ignore[assignment]  # Python's own sign for "not there"


TOGGLED = re.compile(
    r"flash.?attention.?[23]?|bitsandbytes|apex|transformer.?engine|xformers|liger|vllm", re.I
)
WORDS = {"flash": "flash_attn", "transformer": "transformer_engine", "liger": "liger_kernel"}


def native_advice(error: BaseException) -> str | None:
    """What a failure in or for want of such a package means, as the end of a sentence; None for all other failures."""
    package = _package_of(error)
    if package is None:
        return None
    return f"needs {package}, whose kernels need a GPU: switch off {NATIVE[package]}"


def _package_of(error: BaseException) -> str | None:
    if isinstance(error, ImportError):
        name = (error.name or "").partition(".")[0]
        if name in NATIVE:
            return name
        toggled = TOGGLED.search(str(error))
        if toggled:
            word = toggled[0].lower()
            return next((full for start, full in WORDS.items() if word.startswith(start)), word)
        return None
    frames = traceback.extract_tb(error.__traceback__)
    for frame in reversed(frames[-6:]):
        found = re.search(r"site-packages/(\w+)/", frame.filename)
        if found and found[1] in NATIVE:
            return found[1]
    return None
