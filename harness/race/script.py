"""Runs a user's script or module as Python and its launcher would: its `__main__`, its arguments, its end."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness.device import DeviceError, MixedDevices, Unmapped
from harness.race.job import Program
from harness.race.native import native_advice
from harness.race.places import place_in
from harness.system.errors import HarnessError

ADVICE = (
    "take device, streams and events from deepspeed.accelerator.get_accelerator() (current_device_name(), Stream, "
    "Event), which is CUDA on a GPU and the virtual device here; torch.cuda.is_available() is False here"
)
MAPPED_ADVICE = (
    "does it train, with these arguments, on the device that it finds (torch.cuda, or "
    "deepspeed.accelerator.get_accelerator())?"
)


class CleanExit(Exception):
    """The script ended itself with exit code 0."""


class Main:
    """The `__main__` of a program: made first, so that its names can be looked at wherever it ends."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.module = types.ModuleType("__main__")
        self.code, file = self._of_module() if program.module else self._of_script()
        self.file = Path(file)
        self.module.__file__ = file

    def _of_script(self) -> tuple[types.CodeType, str]:
        script = Path(self.program.script or "").resolve()
        sys.path.insert(0, str(script.parent))
        return compile(script.read_bytes(), str(script), "exec"), str(script)

    def _of_module(self) -> tuple[types.CodeType, str]:
        name = self.program.module or ""
        sys.path.insert(0, str(Path.cwd()))
        try:
            spec = importlib.util.find_spec(name)
            if spec is not None and spec.submodule_search_locations is not None:
                spec = importlib.util.find_spec(f"{name}.__main__")
        except ImportError as error:
            raise HarnessError(f"--module {name}: cannot be imported ({error})") from error
        code = getattr(spec.loader, "get_code", lambda _: None)(spec.name) if spec is not None else None
        if spec is None or code is None:
            raise HarnessError(
                f"--module {name}: no such module on the path; start hpz where `python -m {name}` works"
            )
        self.module.__spec__, self.module.__package__ = spec, spec.parent
        return code, str(spec.origin)

    def run(self) -> None:
        """Raises CleanExit, HarnessError for what cannot work here, and whatever else the program raises."""
        sys.modules["__main__"] = self.module
        sys.argv = [str(self.file), *self.program.arguments]
        os.environ |= dict(self.program.environment)
        _pass_local_rank(self.program)
        with explained(self.file, self.program.map_cuda):
            exec(self.code, self.module.__dict__)

    @property
    def names(self) -> dict[str, Any]:
        return self.module.__dict__


def _pass_local_rank(program: Program) -> None:
    """`--local_rank=N`, as DeepSpeed's launcher adds it: always where it launches, else to parsers that know it."""
    word = f"--local_rank={os.environ['LOCAL_RANK']}"
    if any(argument.partition("=")[0] in LOCAL_RANK for argument in program.arguments):
        return
    if program.local_rank:
        sys.argv.insert(1, word)
        return
    parse: Callable[..., Any] = argparse.ArgumentParser.parse_known_args

    def parse_known_args(parser: Any, args: Any = None, namespace: Any = None) -> Any:
        if args is None or list(args) == sys.argv[1:]:
            known = next((option for option in LOCAL_RANK if option in parser._option_string_actions), None)
            given = list(sys.argv[1:])
            if known and not any(item.partition("=")[0] in LOCAL_RANK for item in given):
                args = [*given, f"{known}={os.environ['LOCAL_RANK']}"]
        return parse(parser, args, namespace)

    argparse.ArgumentParser.parse_known_args = parse_known_args  # type: ignore[method-assign,assignment]


LOCAL_RANK = ("--local_rank", "--local-rank")


@contextlib.contextmanager
def explained(script: Path, mapped: bool) -> Iterator[None]:
    """Raises HarnessError for what cannot work here, with the line of the script that asks for it."""
    try:
        yield
    except SystemExit as stop:
        if stop.code in (None, 0):
            raise CleanExit from None
        raise
    except MixedDevices as error:
        advice = "send both to one device" if mapped else ADVICE
        raise HarnessError(
            f"{place_in(script, error)} computes with host and device tensors together: {advice}"
        ) from error
    except Unmapped as error:
        raise HarnessError(f"{place_in(script, error)}: {error}") from error
    except Exception as error:
        if (needed := native_advice(error)) is not None:
            raise HarnessError(f"{place_in(script, error)} {needed}") from error
        if mapped or isinstance(error, DeviceError) or not asks_for_cuda(error):
            raise
        raise HarnessError(
            f"{place_in(script, error)} asks for CUDA by name, and this analysis runs on the virtual device: {ADVICE}"
        ) from error


CUDA_SIGNS = ("CUDA", "cuda", "NVIDIA", "nccl", "NCCL", "dummy base class")  # the last: torch.cuda.Event()
CUDA_ERRORS = (AssertionError, RuntimeError, AttributeError, NotImplementedError)


def asks_for_cuda(error: Exception) -> bool:
    return isinstance(error, CUDA_ERRORS) and any(sign in str(error) for sign in CUDA_SIGNS)
