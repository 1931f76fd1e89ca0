"""What a setup says, as named values that the conditions of faults ask for.

Each fact is read from the release, the configuration or a script; None where it is not known. A fact of scope decides
whether a fault can be there at all (the stage, hpZ); another is a setting that may keep it away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from harness.diagnose.setup import Setup

Value = bool | int | str | None
OF_SCRIPT = {"moe", "leaf_modules", "two_models", "own_boundary", "compile"}
"""Facts that a script says, or nobody."""
USUAL = 10**5
"""DeepSpeed's own persistence threshold, in elements."""
LARGE = 10**8
"""Elements: a persistence threshold from here on is above (nearly) every parameter of any model."""


@dataclass(frozen=True)
class Fact:
    """How a fact is read, said where its value keeps a fault away, and asked for where it is not known."""

    read: Callable[[Setup], Value]
    said: Callable[[Value], str]
    ask: str
    scope: bool = False


def _of_config(read: Callable[[Setup], Value]) -> Callable[[Setup], Value]:
    """None where no configuration is known."""
    return lambda setup: read(setup) if setup.has_config else None


def _hpz(setup: Setup) -> Value:
    return None if setup.stage is None else "on" if setup.hpz > 1 else "off"


def _groups(setup: Setup) -> Value:
    if setup.world_size is None:
        return None
    return "one" if setup.hpz >= setup.world_size else "several"


def _nodes(setup: Setup) -> Value:
    if setup.world_size is None or setup.ranks_per_node is None:
        return None
    return "several" if setup.world_size > setup.ranks_per_node else "one"


def _switch(key: str, default: Value = False) -> Callable[[Setup], Value]:
    """A key of zero_optimization that is on or off."""

    def read(setup: Setup) -> Value:
        value = setup.zero.get(key, default)
        return None if value == "auto" else bool(value)

    return _of_config(read)


def _script(*names: str) -> Callable[[Setup], Value]:
    """Whether a script has one of these; None where no script was read."""

    def read(setup: Setup) -> Value:
        if setup.facts & set(names):
            return True
        return False if setup.facts_read else None

    return read


def _offload(*keys: str) -> Callable[[Setup], Value]:
    return _of_config(lambda setup: any(getattr(setup, key) for key in keys))


def _mics(setup: Setup) -> Value:
    size = setup.zero.get("mics_shard_size", -1)
    return isinstance(size, int) and size > 0


def _persistence(setup: Setup) -> Value:
    threshold = setup.zero.get("stage3_param_persistence_threshold", USUAL)
    if not isinstance(threshold, int | float):
        return None
    # Sizes may be a few of a model's, so that a usual threshold above these says nothing of the others.
    highest = max(setup.numels) if setup.numels and threshold > USUAL else LARGE
    return "above every size" if threshold >= highest else "below some sizes"


def _accumulation(setup: Setup) -> Value:
    return None if setup.accumulation is None else "several" if setup.accumulation > 1 else "one"


def _muon(setup: Setup) -> Value:
    optimizer = setup.config.get("optimizer") or {}
    named = isinstance(optimizer, dict) and str(optimizer.get("type", "")).lower() == "muon"
    return named or "muon" in setup.facts


def _compile(setup: Setup) -> Value:
    section = setup.config.get("compile") or {}
    if isinstance(section, dict) and (section.get("enabled") or section.get("deepcompile")):
        return True
    return _script("compile")(setup)


def _tensor_parallel(setup: Setup) -> Value:
    section = setup.config.get("tensor_parallel") or {}
    size = section.get("autotp_size", 1) if isinstance(section, dict) else 1
    return "tensor parallel" in setup.facts or (isinstance(size, int) and size > 1)


def _model_parallel(setup: Setup) -> Value:
    size = setup.config.get("sequence_parallel_size", 1)
    others = {"sequence parallel", "pipeline parallel"} & setup.facts
    return bool(_tensor_parallel(setup) or others or (isinstance(size, int) and size > 1))


def _leaf_modules(setup: Setup) -> Value:
    return True if setup.zero.get("leaf_module") else _script("leaf modules")(setup)


def _version(text: str | None) -> Value:
    return ".".join(text.split(".")[:2]) if text else None


def _is(text: str) -> Callable[[Value], str]:
    return lambda value: text.format("true" if value is True else "false" if value is False else value)


FACTS: dict[str, Fact] = {
    "stage": Fact(
        _of_config(lambda setup: setup.stage),
        _is("zero_optimization.stage is {}"),
        "give --config: the stage decides",
        scope=True,
    ),
    "hpz": Fact(
        _of_config(_hpz),
        _is("hpZ is {} (zero_optimization.zero_hpz_partition_size is 1 or absent)"),
        "give --config: it says whether hpZ is on",
        scope=True,
    ),
    "hpz_written": Fact(
        _of_config(lambda setup: setup.hpz_asked > 1),
        _is("zero_hpz_partition_size is not set"),
        "give --config: it says whether hpZ is set",
        scope=True,
    ),
    "hpz_groups": Fact(
        _groups,
        lambda value: (
            "one hpZ group holds every rank; there the old copy writes everything"
            if value == "one"
            else "there are several hpZ groups"
        ),
        "give --world-size",
    ),
    "nodes": Fact(_nodes, _is("all ranks are on one node"), "give --world-size and --ranks-per-node"),
    "overlap_comm": Fact(
        _of_config(lambda setup: setup.overlap),
        _is("overlap_comm is {}: everything runs on one stream, which orders it"),
        'is overlap_comm true? ("auto" is not known)',
    ),
    "loads_weights": Fact(
        lambda setup: _script("loads weights", "gathered parameters")(setup),
        _is("the script loads and writes no weights"),
        "the configuration does not say whether you load or write any (--script may)",
    ),
    "offload": Fact(
        _offload("offload_param", "offload_optimizer"),
        _is("nothing is offloaded"),
        "give --config",
        scope=True,
    ),
    "offload_optimizer": Fact(
        _offload("offload_optimizer"), _is("the optimizer is not offloaded"), "give --config", scope=True
    ),
    "tensor_parallel": Fact(
        _tensor_parallel, _is("no tensor parallelism is configured"), "give the script", scope=True
    ),
    "model_parallel": Fact(
        _model_parallel, _is("no model parallelism is configured"), "give the script", scope=True
    ),
    "muon": Fact(_muon, _is("the optimizer is not Muon"), "give --config", scope=True),
    "compile": Fact(_compile, _is("nothing is compiled"), "is torch.compile on? (--script may say)"),
    "moe": Fact(
        # a script that names no experts may well load a model that has some
        lambda setup: True if "moe" in setup.facts else None,
        _is("the model has no experts"),
        "is the model a mixture of experts?",
        scope=True,
    ),
    "leaf_modules": Fact(
        _leaf_modules,
        lambda value: "leaf modules are set" if value else "there are no leaf modules",
        "are leaf modules set?",
    ),
    "two_models": Fact(
        _script("two zero.Init"),
        _is("the script builds one model under zero.Init"),
        "does a process build two models under zero.Init, or two engines? (--script may say)",
    ),
    "own_boundary": Fact(
        _script("own boundary"),
        _is("the script does not set its own accumulation boundary"),
        "does the script call set_gradient_accumulation_boundary?",
    ),
    "quantised_weights": Fact(
        _switch("zero_quantized_weights"), _is("zero_quantized_weights is off"), "give --config", scope=True
    ),
    "quantised_gradients": Fact(
        _switch("zero_quantized_gradients"),
        _is("zero_quantized_gradients is off"),
        "give --config",
        scope=True,
    ),
    "quantised_frozen": Fact(
        _switch("zero_quantized_nontrainable_weights"),
        _is("zero_quantized_nontrainable_weights is off"),
        "give --config",
        scope=True,
    ),
    "mics": Fact(
        _of_config(_mics),
        lambda value: "MiCS shards the weights, and that path is not examined" if value else "MiCS is off",
        "give --config",
        scope=True,
    ),
    "dtype": Fact(
        lambda setup: setup.dtype,
        _is("the training is in {}"),
        "in which precision does it train? (bf16 or fp16)",
    ),
    "accumulation": Fact(
        _of_config(_accumulation),
        _is("a step has one micro-batch"),
        "is gradient_accumulation_steps above 1?",
    ),
    "reduce_scatter": Fact(
        _switch("reduce_scatter", True), _is("reduce_scatter is {}"), "is reduce_scatter true?"
    ),
    "fetch_by_all_reduce": Fact(
        _switch("stage3_use_all_reduce_for_fetch_params"),
        _is("stage3_use_all_reduce_for_fetch_params is off"),
        "give --config",
        scope=True,
    ),
    "persistence": Fact(
        _of_config(_persistence),
        _is("stage3_param_persistence_threshold is {}"),
        "what is stage3_param_persistence_threshold?",
        scope=True,
    ),
    "transformers": Fact(
        lambda setup: _version(setup.transformers),
        _is("transformers {} does not have it"),
        "give the version",
    ),
}
