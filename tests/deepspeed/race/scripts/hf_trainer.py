"""A Hugging Face Trainer script with DeepSpeed, as people fine-tune with it."""

import json
import sys
import tempfile

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

CONFIG = {
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "zero_allow_untested_optimizer": True,
    "bf16": {"enabled": "auto"},
    "zero_optimization": {
        "stage": 3,
        "overlap_comm": True,
        "contiguous_gradients": True,
        "zero_hpz_partition_size": 2,
        "stage3_param_persistence_threshold": 0,
        "stage3_max_reuse_distance": 0,
        "stage3_max_live_parameters": 20000,
        "stage3_prefetch_bucket_size": 2000,
        "reduce_bucket_size": 30000,
    },
}


class Tokens(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        tokens = torch.randint(0, 64, (16,), generator=torch.Generator().manual_seed(index))
        return {"input_ids": tokens, "labels": tokens}


def main() -> None:
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        max_steps=int(sys.argv[1]) if len(sys.argv) > 1 else 2,
        per_device_train_batch_size=2,
        bf16=True,
        learning_rate=1e-3,
        optim="adamw_torch",
        logging_steps=1000,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        deepspeed=json.loads(json.dumps(CONFIG)),
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=32,
        )
    )
    Trainer(model=model, args=arguments, train_dataset=Tokens()).train()


if __name__ == "__main__":
    main()
