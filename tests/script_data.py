"""Makes tiny models, a tokenizer and data sets in a folder, under the names that public scripts look for.

`python -m tests.script_data FOLDER`.
`datasets` and `transformers` take a folder of that name before they ask the Hub, so that scripts run unmodified and
offline. All of it is random: it is there to be trained on for three steps. Pictures: tests/script_arrays.py.
"""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path
from typing import Any

from tests import script_arrays

WORDS = [
    "the",
    "a",
    "small",
    "model",
    "reads",
    "some",
    "text",
    "about",
    "ships",
    "and",
    "stars",
    "while",
    "rain",
    "falls",
    "on",
    "old",
    "hills",
    "near",
    "water",
]
SPECIAL = ("[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]", "<s>", "</s>")
CHAT = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def sentence(words: int = 12) -> str:
    return " ".join(random.choice(WORDS) for _ in range(words)).capitalize() + "."


def tokenizer(folder: str) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE(unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=list(SPECIAL), initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    made.train_from_iterator([sentence() for _ in range(400)], trainer)
    roles = ("unk_token", "pad_token", "cls_token", "sep_token", "mask_token", "bos_token", "eos_token")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_max_length=128,
        chat_template=CHAT,
        **dict(zip(roles, SPECIAL, strict=True)),
    )
    fast.save_pretrained(folder)
    for_old_releases(Path(folder))
    return fast


def for_old_releases(folder: Path) -> None:
    """Tokenizers in the form that transformers 4 and tokenizers before 0.20 read, too."""
    config, words = folder / "tokenizer_config.json", folder / "tokenizer.json"
    named = json.loads(config.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    config.write_text(json.dumps(named))
    made = json.loads(words.read_text())
    made["model"]["merges"] = [" ".join(pair) for pair in made["model"]["merges"]]
    words.write_text(json.dumps(made))


def models() -> None:
    """Of two layers, 32 wide."""
    import transformers as hf

    sizes: dict[str, Any] = {
        "vocab_size": 640,
        "num_hidden_layers": 2,
        "hidden_size": 32,
        "num_attention_heads": 4,
    }
    for folder, model, more in (
        ("tiny-llama", hf.LlamaForCausalLM, {}),
        ("tiny-reward", hf.LlamaForSequenceClassification, {"num_labels": 1}),
    ):
        words = tokenizer(folder)
        ends = {f"{name}_token_id": getattr(words, f"{name}_token_id") for name in ("pad", "bos", "eos")}
        model(
            hf.LlamaConfig(**sizes, intermediate_size=64, max_position_embeddings=256, **ends, **more)
        ).save_pretrained(folder)
    tokenizer("tiny-gpt2")
    hf.GPT2LMHeadModel(
        hf.GPT2Config(
            vocab_size=640, n_embd=32, n_layer=2, n_head=4, n_positions=256, bos_token_id=5, eos_token_id=6
        )
    ).save_pretrained("tiny-gpt2")
    tokenizer("bert-base-cased")
    hf.BertForSequenceClassification(hf.BertConfig(**sizes, intermediate_size=64)).save_pretrained(
        "bert-base-cased"
    )
    tokenizer("roberta-base")
    tokenizer("tiny-bert")
    hf.BertForMaskedLM(hf.BertConfig(**sizes, intermediate_size=64)).save_pretrained("tiny-bert")
    hf.AutoModelForCausalLM.from_pretrained("tiny-llama").save_pretrained("HuggingFaceTB/SmolLM-360M")
    tokenizer("HuggingFaceTB/SmolLM-360M")
    tokenizer("tiny-neox")
    hf.GPTNeoXForCausalLM(
        hf.GPTNeoXConfig(**sizes, intermediate_size=64, max_position_embeddings=256)
    ).save_pretrained("tiny-neox")
    tokenizer("tiny-opt")
    hf.OPTForCausalLM(
        hf.OPTConfig(**sizes, ffn_dim=64, word_embed_proj_dim=32, max_position_embeddings=256, **ends)
    ).save_pretrained("tiny-opt")


def rows(file: str, items: list[Any]) -> None:
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(item) + "\n" for item in items))


def named(
    folder: str, configurations: tuple[str, ...], prefix: str, items: list[Any], features: Any = None
) -> None:
    """A data set with configurations, each of three splits; `features` as a data set's card describes them."""
    splits = ("train", "validation", "test")
    for split in splits:
        rows(f"{folder}/{prefix}{split}.jsonl", items)
    files = [{"split": split, "path": f"{prefix}{split}.jsonl"} for split in splits]
    card: dict[str, Any] = {
        "configs": [{"config_name": name, "data_files": files} for name in configurations]
    }
    if features:
        card["dataset_info"] = [{"config_name": name, "features": features} for name in configurations]
    Path(folder, "README.md").write_text(f"---\n{json.dumps(card)}\n---\n")


METRIC = """import datasets
import evaluate


class Glue(evaluate.Metric):
    def _info(self):
        kinds = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=kinds)

    def _compute(self, predictions, references):
        return {"accuracy": sum(map(int.__eq__, map(int, predictions), map(int, references))) / len(references)}
"""


def data() -> None:
    from datasets import Dataset, DatasetDict

    texts = [{"text": " ".join(sentence() for _ in range(6))} for _ in range(64)]
    for folder, times in (("wikitext", 1), ("Salesforce/wikitext", 8)):
        named(folder, ("wikitext-2-raw-v1", "wikitext-2-v1"), "", texts * times)
    pairs = [{"sentence1": sentence(), "sentence2": sentence(), "label": i % 2, "idx": i} for i in range(48)]
    names = {"class_label": {"names": {"0": "not_equivalent", "1": "equivalent"}}}
    kinds: dict[str, Any] = {"sentence1": "string", "sentence2": "string", "label": names, "idx": "int32"}
    for folder in ("glue", "nyu-mll/glue"):
        features = [{"name": name, "dtype": kind} for name, kind in kinds.items()]
        named(folder, ("mrpc",), "mrpc-", pairs, features)
    Path("glue/glue.py").write_text(METRIC)
    orders = [
        {"instruction": sentence(), "input": "", "output": sentence(), "text": sentence()} for _ in range(64)
    ]
    rows("tatsu-lab/alpaca/train.jsonl", orders)
    Path("alpaca.json").write_text(json.dumps(orders))
    Path("lf").mkdir(exist_ok=True)
    Path("lf/alpaca.json").write_text(json.dumps(orders))
    Path("lf/dataset_info.json").write_text(json.dumps({"alpaca_local": {"file_name": "alpaca.json"}}))
    talk = [[{"from": "human", "value": sentence()}, {"from": "gpt", "value": sentence()}] for _ in range(64)]
    Path("sharegpt.json").write_text(
        json.dumps([{"id": str(i), "conversations": t} for i, t in enumerate(talk)])
    )

    def says(role: str) -> list[dict[str, str]]:
        return [{"role": role, "content": sentence()}]

    rows("chat/train.jsonl", [{"messages": says("user") + says("assistant")} for _ in range(64)])
    chosen = ("chosen", "rejected")
    rows(
        "pref/train.jsonl",
        [{"prompt": says("user")} | {key: says("assistant") for key in chosen} for _ in range(64)],
    )
    rows(
        "openrlhf/train.jsonl",
        [{k: sentence() for k in ("input", "output", "prompt", *chosen)} for _ in range(64)],
    )
    rows("questions/train.jsonl", [{"prompt": says("user")} for _ in range(64)])
    answers = [{key: sentence() for key in ("prompt", *chosen)} for _ in range(64)]
    DatasetDict({split: Dataset.from_list(answers) for split in ("train", "test")}).save_to_disk(
        "Dahoas/rm-static"
    )
    Path("data").mkdir(exist_ok=True)
    Path("data/wikitext-2.txt").write_text("\n".join(sentence(100) for _ in range(1500)))


def conversations() -> None:
    """The rows of projects that have a form of their own."""
    talk = [[{"from": "human", "value": sentence()}, {"from": "gpt", "value": sentence()}] for _ in range(64)]
    choice = [{"conversations": t[:1], "chosen": sentence(), "rejected": sentence()} for t in talk]
    rows("medical-sft/train.jsonl", [{"conversations": t} for t in talk])
    rows("medical-pt/train.jsonl", [{"text": sentence(600)} for _ in talk])
    rows("medical-reward/train.jsonl", choice)
    rows("openrlhf-pref/train.jsonl", [{key: row[key] for key in ("chosen", "rejected")} for row in choice])
    said = [
        row | {key: {"from": "gpt", "value": row[key]} for key in ("chosen", "rejected")} for row in choice
    ]
    Path("lf/pref.json").write_text(json.dumps(said))
    columns = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"}
    preferences = {"file_name": "pref.json", "ranking": True, "formatting": "sharegpt", "columns": columns}
    known = json.loads(Path("lf/dataset_info.json").read_text())
    Path("lf/dataset_info.json").write_text(json.dumps(known | {"pref_local": preferences}))
    kinds = ("instruction", "response", "context", "category")
    rows("dolly/train.jsonl", [dict.fromkeys(kinds, "") | {k: sentence() for k in kinds[:2]} for _ in talk])
    texts = {"type": "text_only", "instances": [{"text": sentence(60)} for _ in talk]}
    Path("lmflow").mkdir(exist_ok=True)
    Path("lmflow/train.json").write_text(json.dumps(texts))


def configurations() -> None:
    zero = {"stage": 3, "overlap_comm": True, "stage3_gather_16bit_weights_on_model_save": False}
    auto = (
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "gradient_accumulation_steps",
        "gradient_clipping",
    )
    ds = {"bf16": {"enabled": True}, "zero_optimization": zero} | dict.fromkeys(auto, "auto")
    Path("ds.json").write_text(json.dumps(ds))
    Path("ds2.json").write_text(json.dumps(ds | {"zero_optimization": {"stage": 2, "overlap_comm": True}}))
    offload = {"device": "cpu", "pin_memory": True, "ratio": 0.8, "super_offload": True}
    zero = {"stage": 3, "overlap_comm": False, "offload_optimizer": offload}
    Path("superoffload.json").write_text(
        json.dumps({"train_batch_size": 4, "bf16": {"enabled": True}, "zero_optimization": zero})
    )
    parallel = {"tensor_parallel": {"autotp_size": 2}, "zero_optimization": {"stage": 1}}
    Path("autotp.json").write_text(
        json.dumps({"bf16": {"enabled": True}} | parallel | dict.fromkeys(auto, "auto"))
    )
    accelerate = {"distributed_type": "DEEPSPEED", "mixed_precision": "bf16", "num_processes": 2}
    accelerate["deepspeed_config"] = {
        "zero_stage": 3,
        "gradient_accumulation_steps": 1,
        "zero3_init_flag": False,
    }
    Path("ds3.yaml").write_text(json.dumps(accelerate))


if __name__ == "__main__":
    Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
    os.chdir(sys.argv[1])
    random.seed(0)
    models()
    data()
    conversations()
    script_arrays.torchvision_sets()
    script_arrays.pictures()
    configurations()
