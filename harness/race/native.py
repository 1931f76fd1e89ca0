"""Packages whose kernels need a real GPU, and what a user of each switches off.

They are not found: a library that looks for one does without. A program that imports one without asking, as many do at
their top for a switch that may be off, gets a stand-in that refuses once it is used.
"""

from __future__ import annotations

import ast
import builtins
import functools
import re
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from harness.device.as_cuda import flash_attention

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
    """Put that in place for this process. What flash_attn has without kernels is found under its full names."""
    for package in NATIVE:
        if package not in sys.modules:
            sys.modules[package] = None  # type: ignore[assignment]  # Python's own sign for "not there"
    sys.modules.update(dict.fromkeys(flash_attention.MODULES, flash_attention))
    load = builtins.__import__

    def import_module(name: str, *args: Any, **kwargs: Any) -> Any:
        root = name.partition(".")[0]
        if root in NATIVE and sys.modules.get(root) is None:
            fromlist = args[2] if len(args) > 2 else kwargs.get("fromlist")
            found = sys.modules.get(name) if fromlist else None
            if found is None and not _is_trial(sys._getframe(1)):
                return StandIn(name if fromlist else root)
        return load(name, *args, **kwargs)

    builtins.__import__ = import_module


class StandIn:
    """In the place of such a package, its modules and what they hold."""

    __version__ = "2.8.3"  # of flash_attn, which programs ask

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        full = f"{self.__name__}.{name}"
        return sys.modules.get(full) or StandIn(full)

    def __call__(self, *_: object, **__: object) -> NoReturn:
        raise ModuleNotFoundError(f"{self.__name__} is not here", name=self.__name__)

    def __instancecheck__(self, thing: object) -> bool:
        return False

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        """As a base class: whoever makes an instance is refused."""
        return (type(self.__name__, (), {"__new__": lambda *_, **__: self()}),)


def _is_trial(frame: FrameType | None) -> bool:
    """Whether somebody who waits for this import, on the way up to the program, is prepared for its failure."""
    while frame is not None and frame.f_globals.get("__name__") != "harness.race.script":
        file = frame.f_code.co_filename
        if not file.startswith("<") and any(frame.f_lineno in lines for lines in _trials(file)):
            return True
        frame = frame.f_back
    return False


@functools.cache
def _trials(file: str) -> tuple[range, ...]:
    """The lines of a file inside `try` with a handler for failing imports; all of them where it cannot be read."""
    try:
        tree = ast.parse(Path(file).read_bytes())
    except (OSError, SyntaxError):
        return (range(1 << 30),)
    return tuple(
        range(node.lineno, (node.body[-1].end_lineno or node.lineno) + 1)
        for node in ast.walk(tree)
        if isinstance(node, ast.Try) and any(CAUGHT & _names(handler) for handler in node.handlers)
    )


CAUGHT = {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"}


def _names(handler: ast.ExceptHandler) -> set[str]:
    if handler.type is None:
        return {"BaseException"}
    return {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)}


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
