"""A report says what of its own run was not seen: native code, and ways into memory that no op shows."""

from __future__ import annotations

import mmap
from pathlib import Path

import torch

from harness.device.virtual import VirtualDevice
from harness.race.happens_before import Analysis
from harness.race.merge import merge, rank_report
from harness.race.report import Coverage, Place, Unseen
from harness.race.text import text
from harness.race.unseen import libraries, native_libraries


def mapped(folder: Path, name: str, content: bytes) -> mmap.mmap:
    """The file as it lies in memory once a program has loaded it."""
    file = folder / name
    file.write_bytes(content)
    with file.open("rb") as opened:
        return mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ)


def test_a_library_that_works_on_tensors_is_named_and_others_are_not(tmp_path: Path) -> None:
    before = libraries()
    held = [
        mapped(tmp_path, "cpu_adam.so", b"\x00libc10.so\x00"),
        mapped(tmp_path, "zlib.so", b"\x00libm.so\x00"),
    ]
    assert native_libraries(before) == ("cpu_adam",)
    assert len(held) == 2


def test_addresses_and_arrays_over_pinned_memory_are_counted_where_they_are_taken() -> None:
    device = VirtualDevice()
    with device.activate():
        pinned, pageable = torch.zeros(4).pin_memory(), torch.zeros(4)
        for tensor in (pinned, pageable):
            tensor.numpy()
            tensor.data_ptr()
        torch.zeros(4, device="cpu:0").data_ptr()
    taken = device.machine.unseen
    assert sum(taken.values()) == 3
    here = "test_addresses_and_arrays_over_pinned_memory_are_counted_where_they_are_taken"
    assert {site.frames()[0][2] for _, site in taken} == {here}


def lines(*coverages: Coverage) -> list[str]:
    reports = [rank_report(rank, Analysis(), {}, one) for rank, one in enumerate(coverages)]
    return list(text(merge(reports, "train.py")))[1:3]


def test_the_report_of_all_ranks_says_what_was_seen_and_what_was_not() -> None:
    unseen = Unseen(what="numpy arrays over pinned memory", place=Place(file="a.py", line=3, function="f"))
    one = Coverage(
        device_ops=5, collectives=1, host_accesses=1, streams=2, unseen=(unseen,), native=("cpu_adam",)
    )
    assert lines(one, one) == [
        "seen: 10 ops on 2 streams, 2 of them collectives, 2 host accesses to pinned memory",
        "not seen: what cpu_adam (native code) does to tensors; what is done through 2 numpy arrays over pinned memory "
        "(a.py:3 f)",
    ]
    assert lines(Coverage(device_ops=1, streams=1)) == [
        "seen: 1 op on 1 stream, 0 of them collectives",
        "not seen: nothing that this run shows",
    ]
