"""Model files: what is published of a model, or the same family scaled down, with every parameter's shape.

Falcon and Llama-2 are dimensions from which the shapes follow here. Any other model is its Hugging Face configuration
as it is, beside the shapes that transformers makes of it, so that a machine without torch knows them, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from harness.study.shape_ranges import Shapes, expand
from harness.system.errors import HarnessError, nearest
from harness.system.messages import of_key
from harness.system.places import REPOSITORY
from harness.system.yaml_file import read_keys

SHIPPED_MODELS = REPOSITORY / "experiments" / "models"
KINDS = ("llama", "falcon", "public")  # tags of the union of configurations


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Dimensions(_Frozen):
    """What both families have; key names are those of the public Hugging Face configurations."""

    vocab_size: int = Field(ge=1)
    max_position_embeddings: int = Field(ge=1)  # tokens
    num_hidden_layers: int = Field(ge=1)
    hidden_size: int = Field(ge=1)
    num_attention_heads: int = Field(ge=1)
    rope_theta: float = 10000.0
    tie_word_embeddings: bool

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} must be a multiple of "
                f"num_attention_heads={self.num_attention_heads}"
            )
        return self


class LlamaDimensions(_Dimensions):
    """Llama-2 (Touvron et al., arXiv 2307.09288). `head_dim` None: hidden_size / num_attention_heads."""

    model_type: Literal["llama"]
    intermediate_size: int = Field(ge=1)
    num_key_value_heads: int = Field(ge=1)
    head_dim: int | None = None
    rms_norm_eps: float = 1e-5

    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of each parameter of transformers' LlamaForCausalLM."""
        hidden, feed_forward = self.hidden_size, self.intermediate_size
        head = self.head_dim or hidden // self.num_attention_heads
        queries, keys = head * self.num_attention_heads, head * self.num_key_value_heads
        yield "model.embed_tokens.weight", (self.vocab_size, hidden)
        for layer in (f"model.layers.{index}" for index in range(self.num_hidden_layers)):
            yield f"{layer}.self_attn.q_proj.weight", (queries, hidden)
            yield f"{layer}.self_attn.k_proj.weight", (keys, hidden)
            yield f"{layer}.self_attn.v_proj.weight", (keys, hidden)
            yield f"{layer}.self_attn.o_proj.weight", (hidden, queries)
            yield f"{layer}.mlp.gate_proj.weight", (feed_forward, hidden)
            yield f"{layer}.mlp.up_proj.weight", (feed_forward, hidden)
            yield f"{layer}.mlp.down_proj.weight", (hidden, feed_forward)
            yield f"{layer}.input_layernorm.weight", (hidden,)
            yield f"{layer}.post_attention_layernorm.weight", (hidden,)
        yield "model.norm.weight", (hidden,)
        if not self.tie_word_embeddings:
            yield "lm_head.weight", (self.vocab_size, hidden)


class FalconDimensions(_Dimensions):
    """Falcon (Almazrouei et al., arXiv 2311.16867): multi-query as 7B, or the new decoder of 40B."""

    model_type: Literal["falcon"]
    ffn_hidden_size: int = Field(ge=1)
    num_kv_heads: int | None = None  # read by the new decoder only
    new_decoder_architecture: bool
    multi_query: Literal[True] = True
    parallel_attn: Literal[True] = True
    bias: Literal[False] = False
    alibi: Literal[False] = False
    layer_norm_epsilon: float = 1e-5

    @model_validator(mode="after")
    def _new_decoder_has_groups(self) -> Self:
        if self.new_decoder_architecture and not self.num_kv_heads:
            raise ValueError("num_kv_heads is needed with new_decoder_architecture: true")
        return self

    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of each parameter of transformers' FalconForCausalLM."""
        hidden, feed_forward = self.hidden_size, self.ffn_hidden_size
        key_heads = (self.num_kv_heads or 1) if self.new_decoder_architecture else 1
        fused = hidden + 2 * key_heads * (hidden // self.num_attention_heads)
        norms = ("ln_attn", "ln_mlp") if self.new_decoder_architecture else ("input_layernorm",)
        yield "transformer.word_embeddings.weight", (self.vocab_size, hidden)
        for layer in (f"transformer.h.{index}" for index in range(self.num_hidden_layers)):
            yield f"{layer}.self_attention.query_key_value.weight", (fused, hidden)
            yield f"{layer}.self_attention.dense.weight", (hidden, hidden)
            yield f"{layer}.mlp.dense_h_to_4h.weight", (feed_forward, hidden)
            yield f"{layer}.mlp.dense_4h_to_h.weight", (hidden, feed_forward)
            for norm in norms:
                yield f"{layer}.{norm}.weight", (hidden,)
                yield f"{layer}.{norm}.bias", (hidden,)
        yield "transformer.ln_f.weight", (hidden,)
        yield "transformer.ln_f.bias", (hidden,)
        if not self.tie_word_embeddings:
            yield "lm_head.weight", (self.vocab_size, hidden)


class PublicConfig(BaseModel):
    """The Hugging Face configuration of a model as it is published, for whatever transformers can build."""

    model_config = ConfigDict(frozen=True, extra="allow")

    model_type: str
    vocab_size: int = Field(ge=1)


class Scale(_Frozen):
    """How a toy was made from a model of real size; the rule is harness.study.scale."""

    of: str  # the model file or the name on the Hub that was scaled down
    width: int = Field(ge=8)
    unaligned: bool = False


def _kind(config: Any) -> str | None:
    if isinstance(config, BaseModel):
        return "public" if isinstance(config, PublicConfig) else str(vars(config)["model_type"])
    return str(config.get("model_type")) if isinstance(config, dict) else None


Config = Annotated[
    Annotated[LlamaDimensions, Tag("llama")]
    | Annotated[FalconDimensions, Tag("falcon")]
    | Annotated[PublicConfig, Tag("public")],
    Discriminator(
        _kind,
        custom_error_type="model_kind",
        custom_error_message="model_type is one of 'llama', 'falcon' where the file holds no shapes; "
        "`hpz model add` writes a file with shapes for any other",
    ),
]


class ModelFile(_Frozen):
    """One file of experiments/models: the configuration, the parameter count and where both come from."""

    source: str  # the public configuration, or the model file that this one scales down
    parameters: int  # published count; checked against the shapes
    config: Config
    scale: Scale | None = None
    shapes: dict[str, tuple[int, ...]] | None = None  # by name with ranges; None: they follow from dimensions

    @model_validator(mode="before")
    @classmethod
    def _public_with_shapes(cls, given: Any) -> Any:
        """Shapes in the file say that the configuration is the public one, whatever its model_type."""
        if isinstance(given, dict) and given.get("shapes") and isinstance(given.get("config"), dict):
            return {**given, "config": _public(given["config"])}
        return given

    @field_validator("shapes")
    @classmethod
    def _shapes_are_sizes(
        cls, shapes: dict[str, tuple[int, ...]] | None
    ) -> dict[str, tuple[int, ...]] | None:
        for name, shape in (shapes or {}).items():
            if not all(size > 0 for size in shape):
                raise ValueError(f"{name} has a size below 1")
        return shapes

    @model_validator(mode="after")
    def _count_is_right(self) -> Self:
        counted = parameter_count(self)
        if counted != self.parameters:
            what = "dimensions under config" if self.shapes is None else "shapes"
            raise ValueError(f"parameters: {self.parameters} stated, but the {what} give {counted}")
        return self


def _public(config: dict[str, Any]) -> PublicConfig:
    try:
        return PublicConfig.model_validate(config)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(of_key(f"config.{first['loc'][0]}", first)) from error


def parse_model(content: Any, where: str) -> ModelFile:
    """A model file's content, checked. Raises HarnessError that starts with `where` and names the key."""
    try:
        return ModelFile.model_validate(content)
    except ValidationError as error:
        raise HarnessError(f"{where}: {_sentence(error)}") from error


def load_model_file(path: str | Path) -> ModelFile:
    """Read a model file. Raises HarnessError naming file and key."""
    file = Path(path)
    return parse_model(read_keys(file, "model files lie in experiments/models"), str(file))


def parameter_shapes(model: ModelFile) -> Shapes:
    """Every parameter's name and shape, tied ones once, named and ordered as transformers does."""
    if isinstance(model.config, PublicConfig):
        return expand(model.shapes or {})
    return list(model.config.shapes())


def parameter_count(model: ModelFile) -> int:
    """Number of trainable elements."""
    return sum(prod(shape) for _, shape in parameter_shapes(model))


def unaligned_parameters(model: ModelFile, world_size: int) -> Shapes:
    """The parameters that `world_size` ranks cannot share equally: hpZ's old copy loses some (#5216)."""
    return [(name, shape) for name, shape in parameter_shapes(model) if prod(shape) % world_size]


def _sentence(error: ValidationError) -> str:
    """The first of pydantic's complaints with its key."""
    first = error.errors()[0]
    # The union's tag ("llama") stands in the location but not in the file.
    keys = [str(part) for part in first["loc"] if part not in KINDS]
    if first["type"] == "extra_forbidden":
        return f"{'.'.join(keys)} is not a key; {nearest(keys[-1], _valid_keys(first['loc']))}"
    return of_key(".".join(keys), first)


def _valid_keys(location: tuple[int | str, ...]) -> list[str]:
    if "llama" in location:
        return list(LlamaDimensions.model_fields)
    return list(FalconDimensions.model_fields if "falcon" in location else ModelFile.model_fields)
