"""Token batches: the same for every variant, split among ranks without gap or overlap, resumable by position."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.corpus import Bytes
from harness.study import Data, Training, load_model_file
from harness.study.text import TEXT_BYTES, stdlib_text
from harness.system.errors import HarnessError
from harness.system.places import REPOSITORY
from harness.workload.batches import Batches, BatchPlan, batch_hash, epoch_order, open_batches
from harness.workload.models import build_model
from harness.workload.questions import held_out_questions, parse_questions, training_questions
from harness.workload.score import Score, held_out_score, multiple_choice_accuracy
from harness.workload.sources import IGNORED, Example, check_example, load_questions
from harness.workload.stdlib_text import stdlib_tokens

TEXT = Data(source="file", path=str(REPOSITORY / "LICENSE"))
MMLU = Data(source="mmlu")
SHORT = Training(micro_batch=2, sequence_length=16)
LONG = Training(task="finetune", micro_batch=2, sequence_length=256)


def batches(data: Data = TEXT, training: Training = SHORT, **own: Any) -> Batches:
    return open_batches(data, training, **{"vocab_size": 256, "world_size": 2, "rank": 0, "seed": 1, **own})


def write(folder: Path, name: str, text: str) -> Data:
    (folder / name).write_text(text)
    return Data(source="file", path=str(folder / name))


# Which examples make a batch.


@given(
    ranks=st.integers(1, 6),
    micro_batch=st.integers(1, 4),
    accumulation=st.integers(1, 3),
    steps=st.integers(1, 4),
)
def test_ranks_partition_the_global_order(
    ranks: int, micro_batch: int, accumulation: int, steps: int
) -> None:
    plans = [
        BatchPlan(micro_batch=micro_batch, accumulation=accumulation, world_size=ranks, rank=rank)
        for rank in range(ranks)
    ]
    seen = [
        place
        for step in range(steps)
        for micro in range(accumulation)
        for plan in plans
        for place in plan.positions(step, micro)
    ]
    assert seen == list(range(steps * accumulation * ranks * micro_batch))


@given(size=st.integers(1, 300), seed=st.integers(0, 2**31), epoch=st.integers(0, 5))
def test_each_epoch_sees_every_example_once(size: int, seed: int, epoch: int) -> None:
    assert sorted(epoch_order(size, seed, epoch)) == list(range(size))


@settings(max_examples=20, deadline=None)
@given(step=st.integers(0, 500), micro=st.integers(0, 1), ranks=st.sampled_from([1, 2, 4]))
def test_the_global_batch_is_the_same_however_ranks_share_it(step: int, micro: int, ranks: int) -> None:
    def whole(world: int) -> torch.Tensor:
        training = Training(micro_batch=4 // world, sequence_length=16, gradient_accumulation=2)
        parts = [batches(training=training, world_size=world, rank=r).at(step, micro) for r in range(world)]
        return torch.cat([part["input_ids"] for part in parts])

    assert torch.equal(whole(ranks), whole(4))


@pytest.mark.parametrize(("data", "training"), [(TEXT, SHORT), (MMLU, LONG)])
def test_a_resumed_run_sees_the_same_batches(data: Data, training: Training) -> None:
    whole = batches(data, training)
    first = [batch_hash([whole.at(step, 0)]) for step in range(40)]
    resumed = batches(data, training)
    assert [batch_hash([resumed.at(step, 0)]) for step in range(25, 40)] == first[25:]
    assert len(set(first)) > 30


def test_the_seed_changes_the_order() -> None:
    assert batch_hash([batches(seed=1).at(0, 0)]) != batch_hash([batches(seed=2).at(0, 0)])


def test_batches_are_int64_of_the_stated_shape() -> None:
    batch = batches().at(3, 0)
    assert set(batch) == {"input_ids", "labels"}
    assert all(tensor.dtype == torch.int64 and tensor.shape == (2, 16) for tensor in batch.values())


def test_the_hash_sees_labels_and_tokens() -> None:
    batch = batches().at(0, 0)
    assert batch_hash([batch]) != batch_hash([{**batch, "labels": batch["labels"] + 1}])


# The default: the standard library's source.


def test_the_default_text_is_python_and_fills_the_vocabulary() -> None:
    tokens = stdlib_tokens(512)
    assert tokens.max() == 511 and tokens.size > 500_000
    assert b"import" in stdlib_text() and len(stdlib_text()) <= TEXT_BYTES


def test_a_vocabulary_is_trained_alike_wherever_it_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = np.array(stdlib_tokens(300))
    monkeypatch.setenv("HPZ_CACHE", str(tmp_path))
    assert np.array_equal(stdlib_tokens(300), first)


def test_a_vocabulary_smaller_than_the_bytes_is_refused() -> None:
    with pytest.raises(HarnessError, match="stdlib needs a model with vocab_size of at least 256, not 255"):
        batches(Data(), vocab_size=255)


def test_with_256_tokens_a_token_is_a_byte() -> None:
    assert stdlib_tokens(256).size == len(stdlib_text().decode(errors="replace").encode())


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv("HPZ_CACHE", str(tmp_path / "taken"))
    with pytest.raises(
        HarnessError, match=r"taken/tokens: the tokens cannot be cached there \(.*set HPZ_CACHE"
    ):
        stdlib_tokens(300)


def test_another_release_of_the_library_is_refused() -> None:
    with pytest.raises(HarnessError, match="another text than the one that the run was planned with"):
        batches(Data(sha256="0" * 64), vocab_size=512)


# A text file.


def test_a_batch_is_text_of_the_file(tmp_path: Path) -> None:
    data = write(tmp_path, "mine.txt", "abcdefgh" * 20)
    assert bytes(batches(data).at(0, 0)["input_ids"][1].tolist()).decode() == "abcdefgh" * 2


def test_a_text_shorter_than_a_sequence_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"mine.txt: 3 tokens are fewer than training.sequence_length=16"):
        batches(write(tmp_path, "mine.txt", "abc"))


def test_a_text_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.bin").write_bytes(b"abc\xff")
    with pytest.raises(HarnessError, match=r"mine.bin: byte 3 is not UTF-8"):
        batches(Data(source="file", path=str(tmp_path / "mine.bin")))


def test_a_text_that_changed_since_the_plan_is_refused(tmp_path: Path) -> None:
    data = write(tmp_path, "mine.txt", "abcdefgh" * 20)
    with pytest.raises(HarnessError, match=r"data.sha256: .*mine.txt is another text than the one"):
        batches(data.model_copy(update={"sha256": "0" * 64}))


def test_a_text_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"data.path: .*gone.txt cannot be read"):
        batches(Data(source="file", path=str(tmp_path / "gone.txt")))


def test_a_token_outside_the_vocabulary_is_refused_with_its_place() -> None:
    with pytest.raises(HarnessError, match=r"LICENSE: tokens \d+ to \d+: token id \d+ is outside .* of 64"):
        batches(vocab_size=64).at(0, 0)


def test_a_tokenizer_that_cannot_be_had_is_named() -> None:
    with pytest.raises(HarnessError, match=r"data.tokenizer: '/no/such' .* give its folder"):
        batches(TEXT.model_copy(update={"tokenizer": "/no/such"}))


# A batch that would give NaN.


def test_a_row_with_every_label_masked_is_refused() -> None:
    example = Example(np.zeros(4, dtype=np.int64), np.array([5, IGNORED, IGNORED, IGNORED]), "f.csv: line 7")
    with pytest.raises(HarnessError, match=r"f.csv: line 7: every label is masked, so its loss would be NaN"):
        check_example(example, 256)


def test_a_label_outside_the_vocabulary_is_refused() -> None:
    example = Example(np.zeros(4, dtype=np.int64), np.array([0, 1, 300, 2]), "f.csv: line 7")
    with pytest.raises(HarnessError, match=r"f.csv: line 7: a label lies outside"):
        check_example(example, 256)


# Hugging Face datasets, from a local folder.


def folder_of(tmp_path: Path, rows: list[Any], column: str = "text") -> Data:
    lines = "\n".join(json.dumps({column: row}) for row in rows)
    (tmp_path / "train.jsonl").write_text(lines)
    return Data(source="hub", path=str(tmp_path))


@pytest.fixture
def documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Data:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "documents"
    folder.mkdir()
    return folder_of(folder, [f"document {n:03d} " * 3 for n in range(60)])


def test_a_local_dataset_streams_the_same_batches_from_any_position(documents: Data) -> None:
    whole = batches(documents)
    first = [batch_hash([whole.at(step, 0)]) for step in range(12)]
    assert batch_hash([batches(documents).at(9, 0)]) == first[9]
    assert batch_hash([whole.at(2, 0)]) == first[2], "going back starts the stream again"
    assert len(set(first)) == 12


def test_long_and_short_documents_are_packed_without_losing_a_token(tmp_path: Path) -> None:
    rows = ["a" * 100, "b", "c" * 7, "d" * 52]
    packed = batches(
        folder_of(tmp_path, rows), Training(micro_batch=10, sequence_length=16), world_size=1
    ).at(0, 0)
    text = bytes(packed["input_ids"].flatten().tolist()).decode()
    assert {letter: text.count(letter) for letter in "abcd"} == {"a": 100, "b": 1, "c": 7, "d": 52}


def test_ranks_share_no_document(documents: Data) -> None:
    def seen(rank: int) -> set[str]:
        own = batches(documents, Training(micro_batch=1, sequence_length=39), rank=rank)
        return {bytes(own.at(step, 0)["input_ids"][0].tolist()).decode()[:12] for step in range(30)}

    assert len(seen(0)) == len(seen(1)) == 30
    assert not seen(0) & seen(1)


def test_a_stream_goes_on_after_its_last_document(documents: Data) -> None:
    assert batches(documents).at(400, 0)["input_ids"].shape == (2, 16)


def test_a_dataset_row_that_is_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"row \d+: column 'text' holds (nan|None), not text"):
        batches(folder_of(tmp_path, [None, None, None])).at(0, 0)


def test_a_dataset_without_the_text_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"data.text_column: .* has no column 'text'; it has body"):
        batches(folder_of(tmp_path, ["a", "b", "c"], column="body")).at(0, 0)


@pytest.mark.parametrize("rows", [["abc"], ["abc", "abc", "abc", ""], [""] * 8])
def test_a_dataset_that_leaves_a_rank_without_text_is_refused(tmp_path: Path, rows: list[str]) -> None:
    with pytest.raises(HarnessError, match=r"fewer rows with text than the 4 ranks"):
        for rank in range(4):
            batches(folder_of(tmp_path, rows), world_size=4, rank=rank).at(0, 0)


def test_a_dataset_that_cannot_be_had_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        HarnessError, match=r"data.path: dataset '.*empty' .* could not be had .* give its folder"
    ):
        batches(Data(source="hub", path=str(tmp_path / "empty"))).at(0, 0)


# MMLU format.

ROW = "What?,w,x,y,z,B\n"


def test_the_shipped_questions_are_sound() -> None:
    questions = load_questions(MMLU)
    assert len(questions) >= 40 and len({q.subject for q in questions}) >= 5
    assert len({q.text for q in questions}) == len(questions)
    assert all(len(set(q.choices)) == 4 for q in questions)
    assert min(sum(q.answer == letter for q in questions) for letter in "ABCD") >= 8


def test_a_question_is_asked_as_mmlu_asks_it() -> None:
    question = parse_questions(ROW * 5, name="high_school_physics.csv", json_lines=False)[0]
    assert question.prompt == (
        "The following are multiple choice questions (with answers) about high school physics.\n\n"
        "What?\nA. w\nB. x\nC. y\nD. z\nAnswer:"
    )


def test_csv_with_a_header_and_json_lines_read_alike() -> None:
    header = parse_questions("question,A,B,C,D,answer\n" + ROW * 5, name="s.csv", json_lines=False)
    line = json.dumps({"question": "What?", "choices": ["w", "x", "y", "z"], "answer": 1}) + "\n"
    read = parse_questions(line * 5, name="s.jsonl", json_lines=True)
    assert [(q.text, q.choices, q.answer) for q in header] == [(q.text, q.choices, q.answer) for q in read]
    assert [q.where for q in header][:2] == ["s.csv: line 2", "s.csv: line 3"]


def test_only_the_answer_has_a_label() -> None:
    batch = batches(MMLU, LONG).at(0, 0)
    for tokens, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        (place,) = (labels != IGNORED).nonzero().flatten().tolist()
        assert labels[place] == tokens[place] and chr(int(tokens[place])) in "ABCD"
        assert bytes(tokens[:place].tolist()).decode().endswith("\nAnswer: ")


def test_held_out_questions_are_never_trained_on() -> None:
    questions = load_questions(MMLU)
    held, trained = set(held_out_questions(questions)), set(training_questions(questions))
    assert held | trained == set(questions) and not held & trained and len(held) == len(questions) // 5


@pytest.mark.parametrize(
    ("text", "json_lines", "message"),
    [
        (ROW * 4, False, "f: 4 questions are too few"),
        (ROW * 4 + "What?,w,x,y,z,E\n", False, "f: line 5: answer 'E' is none of A, B, C, D"),
        (ROW + "What?,w,,y,z,A\n", False, "f: line 2: 'B' is missing"),
        (ROW + "What?,w,x\n", False, "f: line 2: 'C' is missing"),
        ("{", True, "f: line 1: not JSON"),
        ("[1]", True, "f: line 1: not an object"),
        ('{"question": NaN}', True, "f: line 1: 'question' is missing"),
    ],
)
def test_a_bad_question_is_refused_with_its_line(text: str, json_lines: bool, message: str) -> None:
    with pytest.raises(HarnessError, match=message):
        parse_questions(text, name="f", json_lines=json_lines)


def test_a_question_longer_than_a_sequence_is_refused() -> None:
    with pytest.raises(
        HarnessError, match=r"mmlu-mini.csv: line \d+: \d+ tokens do not fit .*sequence_length=64"
    ):
        batches(MMLU, Training(sequence_length=64)).at(0, 0)


def oracle(letter: str) -> Any:
    """A model that prefers one letter everywhere."""

    class Output:
        def __init__(self, ids: torch.Tensor) -> None:
            self.logits = torch.zeros(*ids.shape, 256)
            self.logits[..., ord(letter)] = 1.0

    return lambda input_ids: Output(input_ids)


@pytest.mark.parametrize("letter", "ABCD")
def test_accuracy_counts_the_answers_that_the_model_prefers(letter: str) -> None:
    questions = load_questions(MMLU)
    score = multiple_choice_accuracy(oracle(letter), questions, encoder=Bytes(), sequence_length=256)
    assert score.asked == len(questions)
    assert score.correct == sum(q.answer == letter for q in questions)


@pytest.mark.parametrize("ranks", [2, 4, 7])
def test_ranks_ask_every_question_once_in_equally_many_passes(ranks: int) -> None:
    questions = load_questions(MMLU)[:10]
    passes = [0] * ranks
    scores = []
    for rank in range(ranks):

        def counting(input_ids: torch.Tensor, rank: int = rank) -> Any:
            passes[rank] += 1
            return oracle("A")(input_ids)

        scores.append(
            multiple_choice_accuracy(
                counting, questions, encoder=Bytes(), sequence_length=256, rank=rank, world_size=ranks
            )
        )
    whole = sum(scores, Score(0, 0))
    assert whole == Score(sum(q.answer == "A" for q in questions), 10)
    assert len(set(passes)) == 1


def test_the_score_at_the_end_is_of_held_out_questions() -> None:
    score = held_out_score(oracle("B"), MMLU, LONG, device="cpu", rank=0, world_size=1)
    held = held_out_questions(load_questions(MMLU))
    assert score == Score(sum(q.answer == "B" for q in held), len(held))
    assert score.accuracy == score.correct / len(held)


# The toy models learn from this data.


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Toy matrices are too small for many threads, which only get in each other's way."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def train(model_name: str, data: Data, training: Training, steps: int) -> list[float]:
    """Mean loss of each step of plain single-process training with the global batch of four ranks."""
    file = load_model_file(REPOSITORY / f"experiments/models/{model_name}.yaml")
    model = build_model(file, seed=1)
    own = {"vocab_size": file.config.vocab_size, "world_size": 4, "seed": 1}
    ranks = [open_batches(data, training, rank=rank, **own) for rank in range(4)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=training.learning_rate, weight_decay=0.0)
    losses = []
    for step in range(steps):
        parts = [source.at(step, 0) for source in ranks]
        loss = model(**{key: torch.cat([part[key] for part in parts]) for key in parts[0]}).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("kind", ["toy", "toy-unaligned"])
@pytest.mark.parametrize("family", ["llama2", "falcon-7b", "falcon-40b"])
def test_a_toy_model_learns_source_code_in_twenty_steps(family: str, kind: str) -> None:
    losses = train(f"{family}-{kind}", Data(), Training(learning_rate=5e-3, sequence_length=32), 20)
    assert losses[0] > 6.0 and losses[-1] < 5.6  # each release of Python has a text of its own


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_toy_model_learns_to_answer_with_a_letter() -> None:
    losses = train("falcon-7b-toy", MMLU, Training(learning_rate=5e-3, sequence_length=256), 12)
    assert losses[0] > 5.0 and losses[-1] < 2.0
