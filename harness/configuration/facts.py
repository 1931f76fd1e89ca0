"""Facts of a training that no DeepSpeed key holds, read from the arguments of trainers and recipes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.configuration.found import TRAINER_FACT

ON = (True, "true", "True", "yes", 1, "1")
FACTS: dict[str, tuple[str, ...]] = {
    # Fact → arguments that switch it on, in the names of Hugging Face, LLaMA-Factory, axolotl and ms-swift.
    "compile": ("torch_compile", "compile", "dynamo_backend", "torch_compile_backend"),
    "gradient checkpointing": ("gradient_checkpointing",),
    "moe": ("num_experts", "moe_expert_parallel_size", "ep_size"),
    "flash attention": ("flash_attn", "flash_attention", "use_flash_attn"),
    "sequence parallel": (
        *(
            "sequence_parallel_size",
            "sequence_parallel_degree",
            "context_parallel_size",
            "cp_size",
            "sp_size",
        ),
        *("ds_sequence_parallel_size", "ring_attn_size"),
    ),
    "tensor parallel": (
        "tensor_parallel_size",
        "tp_size",
        "deepspeed_autotp_size",
        "model_parallel_size",
        "tensor_model_parallel_size",
    ),
    "pipeline parallel": (
        "pipeline_parallel_size",
        "pipe_parallel_size",
        "pp_size",
        "pipeline_model_parallel_size",
    ),
}
WORDS = {
    # Argument → fact by what its value says.
    "finetuning_type": {"lora": "peft", "dora": "peft"},
    "adapter": {"lora": "peft", "qlora": "qlora"},
    "train_type": {"lora": "peft"},
    "tuner_type": {"lora": "peft"},
    "stage": {"ppo": "ppo", "dpo": "dpo", "kto": "dpo"},
    "rl": {"dpo": "dpo", "grpo": "grpo", "kto": "dpo", "orpo": "dpo"},
    "rlhf_type": {"dpo": "dpo", "grpo": "grpo", "ppo": "ppo", "kto": "dpo"},
}
QUANTISED = ("load_in_4bit", "quantization_bit", "load_in_8bit", "quant_bits")
MOE = (
    "mixtral",
    "moe",
    "deepseek-v2",
    "deepseek-v3",
    "deepseek_v",
    "a3b",
    "dbrx",
    "jetmoe",
    "gpt-oss",
    "switch-",
)


def facts_of(arguments: Mapping[str, Any], model: str | None = None) -> frozenset[str]:
    """The facts that some arguments show."""
    found = {fact for fact, names in FACTS.items() if any(_is_on(arguments.get(name)) for name in names)}
    for name, words in WORDS.items():
        value = str(arguments.get(name, "")).lower()
        found |= {fact for word, fact in words.items() if value == word}
    if any(_is_on(arguments.get(name)) for name in QUANTISED):
        found.add("qlora")
    if _is_on(arguments.get("use_peft")) or _is_on(arguments.get("lora_r")):
        found.add("peft")
    optimizer = str(arguments.get("optim", arguments.get("optimizer", ""))).lower()
    return frozenset(found | ({"muon"} if "muon" in optimizer else set()) | facts_of_model(model))


def facts_of_model(model: str | None) -> set[str]:
    return {"moe"} if model and any(word in model.lower() for word in MOE) else set()


def trainer_facts(model: str | None) -> frozenset[str]:
    """What Hugging Face's Trainer does itself: pretrained weights are loaded into partitioned parameters."""
    return frozenset({TRAINER_FACT, *(["loads weights"] if model else [])})


def _is_on(value: Any) -> bool:
    """Whether an argument switches something on: true, a name, or a number of ranks above one."""
    if isinstance(value, str) and value.lower() in (
        "",
        "no",
        "none",
        "false",
        "disabled",
        "eager",
        "0",
        "1",
        "null",
    ):
        return False
    if isinstance(value, bool) or value is None:
        return bool(value)
    return value > 1 if isinstance(value, int | float) else True
