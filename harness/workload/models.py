"""Building the transformers model of a model file, of whatever family: no cache, weights from the seed alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from math import prod
from typing import TYPE_CHECKING, Any, Literal

from harness.system.errors import HarnessError

if TYPE_CHECKING:
    from transformers import PreTrainedModel
from harness.study import ModelFile, Shapes, parameter_shapes

ROW_BYTES = 16  # that torch's grouped matrix product needs of a row of an expert's weights, and of a multiple


def build_model(
    model: ModelFile,
    *,
    seed: int = 0,
    dtype: Literal["bf16", "fp32"] = "fp32",
    activation_checkpointing: bool = False,
    device: str = "cpu",
    checkpoint: str | None = None,
    partitioned_by: Mapping[str, Any] | None = None,
    attention: str = "eager",
) -> PreTrainedModel:
    """The transformers model, ready to train: no cache, weights that depend on `seed` alone.

    `device="meta"` gives shapes without memory. `checkpoint` (folder or Hub name) replaces random weights. `attention`
    is one of transformers' implementations.
    `partitioned_by` (a DeepSpeed configuration) splits each parameter among the ranks as soon as it exists; rank 0
    alone draws or reads its values, which are then everyone's. Random weights are other ones than without it.
    Raises HarnessError when the checkpoint cannot be had or is not this model, and when the installed transformers
    makes other parameters than the model file says.
    """
    import torch

    weights = torch.bfloat16 if dtype == "bf16" else torch.float32
    gpus = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(gpus), torch.device(device), _partitioned(partitioned_by):
        torch.manual_seed(seed)
        built = (
            _pretrained(checkpoint, weights, attention)
            if checkpoint
            else _from_config(model, weights, attention)
        )
    if checkpoint:
        _check_same(built, model, checkpoint)
    elif model.shapes is not None:
        _check_shapes(built, model)
    _prepare_experts(built)
    built.config.use_cache = False
    built.train()
    if activation_checkpointing:
        enable = getattr(built, "activation_checkpointing_enable", None)  # so named by transformers 5
        (enable or built.gradient_checkpointing_enable)({"use_reentrant": False})
    return built


@contextlib.contextmanager
def _partitioned(deepspeed: Mapping[str, Any] | None) -> Iterator[None]:
    """Inside, transformers builds models under deepspeed.zero.Init, so that no rank ever holds a whole one."""
    if deepspeed is None:
        yield
        return
    from transformers.integrations import HfDeepSpeedConfig
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    alive = HfDeepSpeedConfig(dict(deepspeed))  # transformers keeps no more than a weak reference to it
    try:
        yield
    finally:
        unset_hf_deepspeed_config()
        del alive


def built_shapes(model: PreTrainedModel) -> Shapes:
    """Every parameter's name and whole shape, tied ones once, also where the ranks hold parts."""
    return [(name, tuple(getattr(p, "ds_shape", p.shape))) for name, p in model.named_parameters()]


def transformers_config(keys: Mapping[str, Any]) -> Any:
    """The transformers configuration of a public one's keys. Raises HarnessError for one that it does not know."""
    from transformers import AutoConfig, __version__

    # Token ids may lie outside a scaled vocabulary, and training knows none; yet some families insist on theirs.
    tokens = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    try:
        with contextlib.suppress(Exception):
            return AutoConfig.for_model(**{**keys, **tokens, "use_cache": False})
        return AutoConfig.for_model(**{**keys, "use_cache": False})
    except Exception as error:  # each family checks its keys in its own way
        raise HarnessError(
            f"config: transformers {__version__} makes no model of model_type {keys.get('model_type')!r} with these "
            f"keys ({_one_line(error)}); mend the configuration or install a transformers that knows it"
        ) from error


def language_model(config: Any, weights: Any, attention: str = "eager") -> PreTrainedModel:
    """AutoModelForCausalLM.from_config. Raises HarnessError where the family has no causal language model."""
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_config(config, attn_implementation=attention, **_typed(weights))
    except Exception as error:
        raise HarnessError(
            f"config: no causal language model can be made of model_type {config.model_type!r} ({_one_line(error)}); "
            "give the configuration of one"
        ) from error


def _from_config(model: ModelFile, weights: Any, attention: str) -> PreTrainedModel:
    from transformers import __version__

    keys = model.config.model_dump(exclude_none=model.shapes is None)
    if model.shapes is None and _release(__version__) >= (5, 0):
        # transformers 5 keeps what it knows of rotary positions in one place.
        keys["rope_parameters"] = {"rope_type": "default", "rope_theta": keys.pop("rope_theta")}
    return language_model(transformers_config(keys), weights, attention)


def _prepare_experts(model: PreTrainedModel) -> None:
    """What ZeRO-3 and the matrix product need where tokens choose their experts.

    Since transformers 5 a layer's experts are one parameter, which every rank gathers whole: nothing is to be done but
    to avoid the grouped product where a row's bytes do not suit it. Before, each expert is a module, and which ones run
    differs by rank and step, so that ZeRO-3's gathers would; as one leaf their parameters are gathered together.
    """
    import torch

    separate = {
        type(module)
        for module in model.modules()
        if isinstance(getattr(module, "experts", None), torch.nn.ModuleList)
    }
    if separate:
        _set_leaves(model, separate)
    fused = [shape for name, shape in built_shapes(model) if ".experts." in name and len(shape) == 3]
    if any(size * 2 % ROW_BYTES for shape in fused for size in shape[1:]):  # 2: bytes of bf16, as trained
        model.set_experts_implementation("batched_mm")  # as the grouped one, it lets no host wait


def _set_leaves(model: PreTrainedModel, blocks: set[type]) -> None:
    try:
        from deepspeed.utils import set_z3_leaf_modules
    except ImportError as error:
        raise HarnessError(
            f"model: the experts of {', '.join(sorted(block.__name__ for block in blocks))} are separate modules, and "
            "this DeepSpeed cannot gather them together (0.13.0 and later can, #4966); take a later release"
        ) from error
    set_z3_leaf_modules(model, list(blocks))


def _check_shapes(built: PreTrainedModel, model: ModelFile) -> None:
    from transformers import __version__

    found, stated = built_shapes(built), parameter_shapes(model)
    if found == stated:
        return
    pairs = zip(found, stated, strict=False)
    first = next((pair for pair in pairs if pair[0] != pair[1]), (("nothing more", ()), ("nothing more", ())))
    raise HarnessError(
        f"model: transformers {__version__} makes {len(found)} parameters of {sum(prod(s) for _, s in found)} elements "
        f"from this configuration, the model file says {len(stated)} of {model.parameters}; they first differ in "
        f"{first[0][0]} {list(first[0][1])} and {first[1][0]} {list(first[1][1])}; "
        "write the file anew with hpz model add"
    )


def _pretrained(checkpoint: str, weights: Any, attention: str) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_pretrained(
            checkpoint, attn_implementation=attention, **_typed(weights)
        )
    except (OSError, ValueError) as error:
        raise HarnessError(
            f"training.checkpoint: {checkpoint!r} is no folder with a checkpoint and could not be had "
            f"from the Hub ({_first_line(error)}); download it where there is a network and give its folder"
        ) from error


def _typed(weights: Any) -> dict[str, Any]:
    """The keyword for the type of the weights; transformers renamed it in 4.56."""
    from transformers import __version__

    return {"dtype" if _release(__version__) >= (4, 56) else "torch_dtype": weights}


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


def _check_same(built: PreTrainedModel, model: ModelFile, checkpoint: str) -> None:
    found = dict(built_shapes(built))
    for name, shape in parameter_shapes(model):
        if found.get(name) != shape:
            raise HarnessError(
                f"training.checkpoint: {checkpoint!r} is another model than matrix.model says: "
                f"{name} is {found.get(name)} there and {shape} in the model file"
            )


def _one_line(error: Exception) -> str:
    words = " ".join(str(error).split()).rstrip(". ") or type(error).__name__
    return words if len(words) < 300 else f"{words[:300]}…"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")
