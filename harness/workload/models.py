"""Building the transformers model of a model file: no cache, weights that depend on the seed alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from harness.system.errors import HarnessError

if TYPE_CHECKING:
    from transformers import PreTrainedModel
from harness.study import ModelFile


def build_model(
    model: ModelFile,
    *,
    seed: int = 0,
    dtype: Literal["bf16", "fp32"] = "fp32",
    attention: str = "eager",
    activation_checkpointing: bool = False,
    device: str = "cpu",
    checkpoint: str | None = None,
    partitioned_by: Mapping[str, Any] | None = None,
) -> PreTrainedModel:
    """The transformers model, ready to train: no cache, weights that depend on `seed` alone.

    `device="meta"` gives shapes without memory. `checkpoint` (folder or Hub name) replaces random weights.
    `partitioned_by` (a DeepSpeed configuration) splits each parameter among the ranks as soon as it exists; rank 0
    alone draws or reads its values, which are then everyone's. Random weights are other ones than without it.
    Raises HarnessError when the checkpoint cannot be had or is not this model.
    """
    import torch

    weights = torch.bfloat16 if dtype == "bf16" else torch.float32
    gpus = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(gpus), torch.device(device), _partitioned(partitioned_by):
        torch.manual_seed(seed)
        built = (
            _pretrained(checkpoint, weights, attention)
            if checkpoint
            else _from_dimensions(model, weights, attention)
        )
    if checkpoint:
        _check_same(built, model, checkpoint)
    built.config.use_cache = False
    built.train()
    if activation_checkpointing:
        enable = getattr(built, "activation_checkpointing_enable", None)  # so named by transformers 5
        (enable or built.gradient_checkpointing_enable)({"use_reentrant": False})
    return built


@contextmanager
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


def _from_dimensions(model: ModelFile, weights: Any, attention: str) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM, FalconConfig, LlamaConfig, __version__

    dimensions = model.config.model_dump(exclude={"model_type", "rope_theta"}, exclude_none=True)
    theta = model.config.rope_theta
    # transformers 5 keeps what it knows of rotary positions in one place.
    new = {"rope_parameters": {"rope_type": "default", "rope_theta": theta}}
    rope: dict[str, Any] = {"rope_theta": theta} if _release(__version__) < (5, 0) else new
    family = LlamaConfig if model.config.model_type == "llama" else FalconConfig
    config = family(**dimensions, **rope, bos_token_id=None, eos_token_id=None, use_cache=False)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention, **_typed(weights))


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
    found = {name: tuple(getattr(p, "ds_shape", p.shape)) for name, p in built.named_parameters()}
    for name, shape in model.config.shapes():
        if found.get(name) != shape:
            raise HarnessError(
                f"training.checkpoint: {checkpoint!r} is another model than matrix.model says: "
                f"{name} is {found.get(name)} there and {shape} in the model file"
            )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")
