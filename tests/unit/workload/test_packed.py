"""Batches of a packed corpus: the same for every variant, at once from any step, held-out ones apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.corpus import Source
from harness.corpus.prepare import prepare
from harness.study import Data, Training
from harness.study.text import stdlib_text
from harness.system.errors import HarnessError
from harness.workload.batches import Batches, batch_hash, open_batches, open_validation

TRAINING = Training(micro_batch=2, sequence_length=64, validate_every=5, validation_batches=3)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """200 kB of Python's source, a token a byte, a fifth of it held out."""
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(20):
        (folder / f"{number}.txt").write_bytes(
            stdlib_text()[number * 10_000 :][:10_000].replace(b"\xc2", b"")
        )
    source = Source(
        kind="file", path=str(folder / "*.txt"), validation_fraction=0.2, root=str(folder / "kept")
    )
    corpus = prepare(source, workers=1).corpus
    return Data(
        source="file",
        path=source.path,
        packed=True,
        prepared=source.root,
        validation_fraction=0.2,
        sha256=corpus.content,
    )


def batches(data: Data, training: Training = TRAINING, **own: Any) -> Batches:
    return open_batches(data, training, **{"vocab_size": 256, "world_size": 2, "rank": 0, "seed": 1, **own})


def validation(data: Data, training: Training = TRAINING, **own: Any) -> Batches:
    return open_validation(data, training, **{"vocab_size": 256, "world_size": 2, "rank": 0, **own})


def size_of(source: Batches) -> int:
    return len(source.tokens) // source.length  # type: ignore[attr-defined]


def test_an_epoch_reads_every_sequence_once(data: Data) -> None:
    training = Training(micro_batch=1, sequence_length=64)
    whole = batches(data, training, world_size=1)
    seen = [tuple(whole.at(step, 0)["input_ids"][0].tolist()) for step in range(size_of(whole))]
    tokens = whole.tokens.read(0, len(seen) * 64).reshape(-1, 64)  # type: ignore[attr-defined]
    assert sorted(seen) == sorted(map(tuple, tokens.tolist())) and seen != list(map(tuple, tokens.tolist()))


@settings(max_examples=20)
@given(step=st.integers(0, 150), micro=st.integers(0, 1), ranks=st.sampled_from([1, 2, 4]))
def test_the_global_batch_is_the_same_however_ranks_share_it(
    data: Data, step: int, micro: int, ranks: int
) -> None:
    def whole(world: int) -> torch.Tensor:
        training = Training(micro_batch=4 // world, sequence_length=64, gradient_accumulation=2)
        parts = [batches(data, training, world_size=world, rank=rank) for rank in range(world)]
        return torch.cat([part.at(step, micro)["input_ids"] for part in parts])

    assert torch.equal(whole(ranks), whole(4))


def test_a_resumed_run_sees_the_same_batches_of_every_epoch(data: Data) -> None:
    again = data.model_copy(update={"repeat": True})
    whole = batches(again)
    first = [batch_hash([whole.at(step, 0)]) for step in range(1500)]
    assert [batch_hash([batches(again).at(step, 0)]) for step in (0, 700, 1499)] == [
        first[step] for step in (0, 700, 1499)
    ]
    assert len(set(first)) == 1500, "an epoch has an order of its own"
    assert batches(again).at(10**12, 0)["input_ids"].shape == (2, 64)


def test_without_repeat_a_corpus_is_read_once(data: Data) -> None:
    last = -(-size_of(batches(data)) // 4)
    assert batches(data).at(last - 2, 0)["input_ids"].dtype == torch.int64
    with pytest.raises(
        HarnessError, match=r"corpus .*: its [\d,]+ sequences of 64 tokens are used up; .*repeat: true"
    ):
        batches(data).at(last, 0)


def test_the_seed_changes_the_order(data: Data) -> None:
    assert batch_hash([batches(data, seed=1).at(0, 0)]) != batch_hash([batches(data, seed=2).at(0, 0)])


def test_labels_are_the_tokens_and_hashes_prove_them(data: Data) -> None:
    batch = batches(data).at(3, 0)
    assert set(batch) == {"input_ids", "labels"} and torch.equal(batch["input_ids"], batch["labels"])
    assert batch["input_ids"].dtype == torch.int64


def test_a_token_outside_the_vocabulary_is_refused_with_its_place(data: Data) -> None:
    with pytest.raises(
        HarnessError, match=r"corpus .* \(train\): tokens \d+ to \d+: token id \d+ is outside"
    ):
        batches(data, vocab_size=50).at(0, 0)


def test_validation_is_the_same_at_every_step(data: Data) -> None:
    first = [validation(data).at(0, micro)["input_ids"] for micro in range(3)]
    later = [validation(data).at(700, micro)["input_ids"] for micro in range(3)]
    assert all(torch.equal(one, other) for one, other in zip(first, later, strict=True))


def test_ranks_validate_on_sequences_of_their_own(data: Data) -> None:
    parts = [validation(data, rank=rank).at(0, micro)["input_ids"] for micro in range(3) for rank in range(2)]
    found = torch.cat(parts).numpy()
    held = validation(data).tokens.read(0, 12 * 64).reshape(-1, 64)  # type: ignore[attr-defined]
    assert np.array_equal(found, held)


def test_more_validation_than_is_held_out_is_refused(data: Data) -> None:
    with pytest.raises(
        HarnessError, match=r"\(held-out\): holds [\d,]+ sequences of 64 tokens, fewer than are asked"
    ):
        validation(data).at(0, 10_000)


def test_validation_needs_packed_data() -> None:
    with pytest.raises(
        HarnessError, match=r"training\.validate_every: nothing is held out .* data\.packed: true"
    ):
        validation(Data())


def test_a_corpus_that_is_not_prepared_is_refused(data: Data) -> None:
    with pytest.raises(HarnessError, match=r"data\.path: .* is not prepared; run `hpz data prepare`"):
        batches(data.model_copy(update={"sha256": None}))


def test_a_corpus_that_is_not_on_this_machine_is_refused(data: Data, tmp_path: Path) -> None:
    with pytest.raises(
        HarnessError, match=r"data: the packed corpus \w{16} is not in .*name a folder that every node"
    ):
        batches(data.model_copy(update={"prepared": str(tmp_path)}))
