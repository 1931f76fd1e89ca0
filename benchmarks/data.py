"""What text costs a training: `python -m benchmarks.data`, on the source of Python's standard library.

Tokens a second that `hpz data prepare` makes with one worker and with as many as cores; what a batch costs at step 0
and at step 50,000, from a corpus that was just opened; and a plain training loop fed by a packed corpus and a
prefetching thread against the same loop with one batch again and again, in alternating blocks. The goals are an equal
cost of both steps, and 1.01 for the loop. Other load on the machine shows in wall time more than in CPU time.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

VOCABULARY = 4096
MICRO_BATCH, LENGTH = 4, 256
WARMUP, BLOCK, BLOCKS = 5, 5, 40  # steps; steps; of each loop, alternating
READS = 200  # batches read around each of the two steps
FAR = 50_000


def main(
    copies: Annotated[int, typer.Option(help="how often the library's 30 MB are prepared")] = 2,
    device: Annotated[str, typer.Option(help="of the loop: cpu or cuda")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object instead of a table")] = False,
) -> None:
    """Print tokens a second, microseconds a batch, and the loop's ratio."""
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), copies, device)
    if as_json:
        print(json.dumps(rows))
        return
    table = Table(
        title=f"{copies} × standard library, {len(os.sched_getaffinity(0))} cores, loop on {device}"
    )
    for column in ("what", "median", "middle half"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for what, found in rows.items():
        table.add_row(what, *found)
    Console().print(table)


def measure(folder: Path, copies: int, device: str) -> dict[str, tuple[str, str]]:
    """Every measurement as its name, its median and the middle half of its values, or the seconds that it took."""
    text = write_text(folder / "text", copies)
    tokenizer = train_tokenizer(text, folder / "tokenizer")
    rows: dict[str, tuple[str, str]] = {}
    for workers in dict.fromkeys((1, len(os.sched_getaffinity(0)))):
        data, seconds = prepared(text, tokenizer, folder / str(workers), workers)
        tokens = data["tokens"] / seconds
        rows[f"tokens/s prepared, {workers} workers, start included"] = f"{tokens:,.0f}", f"{seconds:.1f} s"
    for step in (0, FAR):
        rows[f"µs a batch of {MICRO_BATCH} × {LENGTH} at step {step:,}"] = spread(read_at(data, step), ",.0f")
        rows[f"µs to open and read step {step:,}"] = spread(
            [first_read(data, step) for _ in range(20)], ",.0f"
        )
    for what, (values, form) in loops(data, device).items():
        rows[what] = spread(values, form)
    return rows


def spread(values: list[float], form: str) -> tuple[str, str]:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:{form}}", f"{low:{form}} – {high:{form}}"


def write_text(folder: Path, copies: int) -> Path:
    """JSON lines, a document a module; each copy begins its documents with its number, so that none is like another."""
    folder.mkdir()
    library = Path(sysconfig.get_path("stdlib"))
    files = [file for file in sorted(library.rglob("*.py")) if "site-packages" not in file.parts]
    for copy in range(copies):
        with (folder / f"{copy}.jsonl").open("w") as out:
            for file in files:
                text = f"# {copy}\n{file.read_text(errors='replace')}"
                out.write(json.dumps({"text": text}) + "\n")
    return folder


def train_tokenizer(text: Path, folder: Path) -> Path:
    """A byte-level BPE, as GPT-2's in kind, of VOCABULARY tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    lines = (text / "0.jsonl").read_text().splitlines()[::8]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((json.loads(line)["text"] for line in lines), trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>").save_pretrained(str(folder))
    return folder


def prepared(text: Path, tokenizer: Path, root: Path, workers: int) -> tuple[dict[str, Any], float]:
    """The corpus as a study's data would name it, its tokens, and the seconds that it took."""
    from harness.corpus import Source
    from harness.corpus.prepare import prepare

    started = time.perf_counter()
    corpus = prepare(
        Source(kind="file", path=str(text), tokenizer=str(tokenizer), root=str(root)), workers=workers
    ).corpus
    seconds = time.perf_counter() - started
    named = {"source": "file", "path": str(text), "packed": True, "prepared": str(root), "repeat": True}
    return {"data": {**named, "sha256": corpus.content}, "tokens": corpus.train_tokens}, seconds


def opened(data: dict[str, Any]) -> Any:
    """The batches of a run's only rank."""
    from harness.study import Data, Training
    from harness.workload.batches import open_batches

    training = Training(micro_batch=MICRO_BATCH, sequence_length=LENGTH, steps=FAR + READS)
    return open_batches(Data(**data["data"]), training, vocab_size=VOCABULARY, world_size=1, rank=0, seed=1)


def read_at(data: dict[str, Any], step: int) -> list[float]:
    """Microseconds of each of the batches from `step` on."""
    batches = opened(data)
    batches.at(step, 0)
    return [microseconds(lambda at=at: batches.at(at, 0)) for at in range(step + 1, step + READS)]


def first_read(data: dict[str, Any], step: int) -> float:
    return microseconds(lambda: opened(data).at(step, 0))


def microseconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1e6


def loops(data: dict[str, Any], device: str) -> dict[str, tuple[list[float], str]]:
    """Ratios of neighbouring blocks of the same steps, fed to bare, and what a step waits for its batch."""
    import torch

    from harness.workload.prefetch import Prefetched

    torch.set_num_threads(1)  # as in every rank
    train, cuda = trainer(device), device == "cuda"
    pin: Any = torch.Tensor.pin_memory if cuda else lambda tensor: tensor
    blocks: dict[str, list[tuple[float, float]]] = {"fed": [], "bare": []}
    waits: list[float] = []
    source, steps = opened(data), WARMUP + BLOCK * BLOCKS
    ready = [{n: t.to(device) for n, t in source.at(step, 0).items()} for step in range(steps)]
    with Prefetched(source, accumulation=1, steps=steps, pin=pin) as batches:

        def fed(step: int) -> None:
            started = time.perf_counter()
            batch = {n: t.to(device, non_blocking=True) for n, t in batches.at(step, 0).items()}
            waits.append((time.perf_counter() - started) * 1e6)
            train(batch)

        def bare(step: int) -> None:
            train(ready[step])

        for first in (0, *range(WARMUP, steps, BLOCK)):
            for name, work in (("fed", fed), ("bare", bare)):
                wall, cpu = time.perf_counter(), time.process_time()
                for step in range(first, first + BLOCK if first else WARMUP):
                    work(step)
                if cuda:
                    torch.cuda.synchronize()
                blocks[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    pairs = list(zip(blocks["fed"][1:], blocks["bare"][1:], strict=True))
    return {
        "ms a step of the bare loop": ([bare[0] / BLOCK * 1e3 for _, bare in pairs], ",.1f"),
        "µs until a step has its batch": (waits[WARMUP:], ",.0f"),
        "wall time, fed by text to bare loop": ([fed[0] / bare[0] for fed, bare in pairs], ".3f"),
        "CPU time, fed by text to bare loop": ([fed[1] / bare[1] for fed, bare in pairs], ".3f"),
    }


def trainer(device: str) -> Callable[[dict[str, Any]], None]:
    """One step of a plain training of the shipped model of a million parameters, with this vocabulary."""
    import torch

    from harness.study import ModelFile, load_model_file
    from harness.workload.models import build_model

    spec = load_model_file(REPOSITORY / "experiments/models/llama2-1m.yaml").model_dump()
    spec["parameters"] += 2 * (VOCABULARY - spec["config"]["vocab_size"]) * spec["config"]["hidden_size"]
    spec["config"]["vocab_size"] = VOCABULARY
    model = build_model(ModelFile.model_validate(spec)).to(device)
    optimizer = torch.optim.AdamW(model.parameters())

    def train(batch: dict[str, Any]) -> None:
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return train


if __name__ == "__main__":
    typer.run(main)
