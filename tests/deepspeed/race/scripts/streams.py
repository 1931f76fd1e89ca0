"""Small stream programs, in pairs: `x_bug` lacks an ordering between the lines marked `# 1st` and `# 2nd`, `x_right`
has it. Run one with `hpz race --script tests/deepspeed/race/scripts/streams.py NAME`.
"""

from __future__ import annotations

import copy
import sys

import torch
from deepspeed.accelerator import get_accelerator

A = get_accelerator()
DEVICE = A.current_device_name()


def side() -> object:
    return A.Stream()


def filled(*shape: int) -> torch.Tensor:
    return torch.ones(*shape, device=DEVICE)


# -- a consumer on another stream


def consumer_bug() -> torch.Tensor:
    x, s = filled(8), side()
    A.synchronize()
    x.mul_(3)  # 1st
    with A.stream(s):
        y = x + 1  # 2nd
    s.synchronize()
    return y


def consumer_right() -> torch.Tensor:
    x, s = filled(8), side()
    x.mul_(3)
    s.wait_stream(A.current_stream())
    with A.stream(s):
        y = x + 1
    s.synchronize()
    return y


# -- a producer on another stream


def producer_bug() -> torch.Tensor:
    x, s = filled(8), side()
    A.synchronize()
    with A.stream(s):
        x.mul_(3)  # 1st
    y = x + 1  # 2nd
    A.synchronize()
    return y


def producer_right() -> torch.Tensor:
    x, s = filled(8), side()
    A.synchronize()
    with A.stream(s):
        x.mul_(3)
    A.current_stream().wait_stream(s)
    return x + 1


# -- an event that is recorded before the work that it should stand for


def early_event_bug() -> torch.Tensor:
    x, s, ready = filled(8), side(), A.Event()
    A.synchronize()
    ready.record(A.current_stream())
    x.mul_(3)  # 1st
    s.wait_event(ready)
    with A.stream(s):
        y = x + 1  # 2nd
    s.synchronize()
    return y


def early_event_right() -> torch.Tensor:
    x, s, ready = filled(8), side(), A.Event()
    x.mul_(3)
    ready.record(A.current_stream())
    s.wait_event(ready)
    with A.stream(s):
        y = x + 1
    s.synchronize()
    return y


# -- the wrong stream waits


def wrong_waiter_bug() -> torch.Tensor:
    x, s, other = filled(8), side(), side()
    A.synchronize()
    x.mul_(3)  # 1st
    other.wait_stream(A.current_stream())
    with A.stream(s):
        y = x + 1  # 2nd
    s.synchronize()
    return y


def wrong_waiter_right() -> torch.Tensor:
    x, s, other = filled(8), side(), side()
    x.mul_(3)
    other.wait_stream(A.current_stream())
    s.wait_stream(other)  # transitive
    with A.stream(s):
        y = x + 1
    s.synchronize()
    return y


# -- a wait for an event that is recorded only later waits for nothing


def late_record_bug() -> torch.Tensor:
    x, s, ready = filled(8), side(), A.Event()
    A.synchronize()
    s.wait_event(ready)
    x.mul_(3)  # 1st
    ready.record(A.current_stream())
    with A.stream(s):
        y = x + 1  # 2nd
    s.synchronize()
    return y


def late_record_right() -> torch.Tensor:
    x, s, ready = filled(8), side(), A.Event()
    x.mul_(3)
    ready.record(A.current_stream())
    ready.synchronize()
    with A.stream(s):
        y = x + 1
    s.synchronize()
    return y


# -- an event that is recorded anew on another stream before it is waited for


def reused_event_bug() -> torch.Tensor:
    x, s, third, ready = filled(8), side(), side(), A.Event()
    A.synchronize()
    x.mul_(3)  # 1st
    ready.record(A.current_stream())
    ready.record(third)
    s.wait_event(ready)
    with A.stream(s):
        y = x + 1  # 2nd
    s.synchronize()
    return y


def reused_event_right() -> torch.Tensor:
    x, s, third, ready = filled(8), side(), side(), A.Event()
    x.mul_(3)
    ready.record(A.current_stream())
    s.wait_event(ready)
    ready.record(third)  # the wait keeps what it was given
    with A.stream(s):
        y = x + 1
    s.synchronize()
    return y


# -- one of two producers is forgotten


def second_producer_bug() -> torch.Tensor:
    x, s, third = filled(8), side(), side()
    A.synchronize()
    with A.stream(s):
        x[:4].mul_(2)
    with A.stream(third):
        x[4:].mul_(3)  # 1st
    A.current_stream().wait_stream(s)
    y = x + 1  # 2nd
    A.synchronize()
    return y


def second_producer_right() -> torch.Tensor:
    x, s, third = filled(8), side(), side()
    A.synchronize()
    with A.stream(s):
        x[:4].mul_(2)
    with A.stream(third):
        x[4:].mul_(3)
    A.current_stream().wait_stream(s)
    A.current_stream().wait_stream(third)
    return x + 1


# -- a buffer is overwritten while it is still being read


def overwritten_bug() -> torch.Tensor:
    x, s = filled(8), side()
    A.synchronize()
    with A.stream(s):
        y = x + 1  # 1st
    x.zero_()  # 2nd
    A.synchronize()
    return y


def overwritten_right() -> torch.Tensor:
    x, s = filled(8), side()
    A.synchronize()
    with A.stream(s):
        y = x + 1
        read = A.Event()
        read.record(s)
    A.current_stream().wait_event(read)
    x.zero_()
    A.synchronize()
    return y


# -- two streams write the same memory


def two_writers_bug() -> torch.Tensor:
    x, s = filled(8), side()
    A.synchronize()
    with A.stream(s):
        x.fill_(5)  # 1st
    x.fill_(7)  # 2nd
    A.synchronize()
    return x


def two_writers_right() -> torch.Tensor:
    x, s = filled(8), side()
    A.synchronize()
    with A.stream(s):
        x[::2].fill_(5)
    x[1::2].fill_(7)
    A.synchronize()
    return x


# -- slices that overlap, and slices that do not


def slices_bug() -> torch.Tensor:
    x, s = filled(8), side()
    A.synchronize()
    with A.stream(s):
        x[:5].mul_(3)  # 1st
    y = x[4:] + 1  # 2nd
    A.synchronize()
    return y


def slices_right() -> torch.Tensor:
    x, s = filled(8), side()
    A.synchronize()
    with A.stream(s):
        x[:4].mul_(3)
    y = x[4:] + 1
    A.synchronize()
    return y


# -- a column is written while a row, or another column, is read


def columns_bug() -> torch.Tensor:
    x, s = filled(6, 4), side()
    A.synchronize()
    with A.stream(s):
        x[:, 2].mul_(3)  # 1st
    y = x[3] + 1  # 2nd
    A.synchronize()
    return y


def columns_right() -> torch.Tensor:
    x, s = filled(6, 4), side()
    A.synchronize()
    with A.stream(s):
        x[:, 2].mul_(3)
    y = x[:, 1::2] + 1
    A.synchronize()
    return y


# -- the same memory under another name and shape


def alias_bug() -> torch.Tensor:
    x, s = filled(4, 4), side()
    flat = x.t().detach().view(4, 4)
    A.synchronize()
    flat.mul_(3)  # 1st
    with A.stream(s):
        y = x.sum()  # 2nd
    s.synchronize()
    return y


def alias_right() -> torch.Tensor:
    x, s = filled(4, 4), side()
    copy = x.clone()
    A.synchronize()
    copy.mul_(3)
    with A.stream(s):
        y = x.sum()
    s.synchronize()
    return y


# -- a block goes back to the allocator while another stream still reads it


def freed_bug() -> torch.Tensor:
    s, x = side(), filled(8)
    s.wait_stream(A.current_stream())
    with A.stream(s):
        y = x + 1  # 1st
    del x  # 2nd
    torch.full((8,), 5.0, device=DEVICE)  # may get the block of x
    A.synchronize()
    return y


def freed_right() -> torch.Tensor:
    s, x = side(), filled(8)
    s.wait_stream(A.current_stream())
    with A.stream(s):
        y = x + 1
        x.record_stream(s)
    del x
    filled(8)
    A.synchronize()
    return y


# -- a block of another stream goes back before that stream waits for its reader: whoever gets it must come later


def handed_back_bug() -> torch.Tensor:
    s, total = side(), torch.zeros((), device=DEVICE)
    for value in (1.0, 2.0):
        with A.stream(s):
            block = torch.full((256,), value, device=DEVICE)
        A.current_stream().wait_stream(s)
        total += block.sum()  # 1st
        del block  # 2nd
    return total


def handed_back_right() -> torch.Tensor:
    s, total = side(), torch.zeros((), device=DEVICE)
    for value in (1.0, 2.0):
        s.wait_stream(A.current_stream())
        with A.stream(s):
            block = torch.full((256,), value, device=DEVICE)
        A.current_stream().wait_stream(s)
        total += block.sum()
        del block
    return total


# -- record_stream names the wrong stream


def wrong_record_stream_bug() -> torch.Tensor:
    s, x = side(), filled(8)
    s.wait_stream(A.current_stream())
    with A.stream(s):
        y = x + 1  # 1st
    x.record_stream(A.current_stream())
    del x  # 2nd
    filled(8)
    A.synchronize()
    return y


def wrong_record_stream_right() -> torch.Tensor:
    s, x = side(), filled(8)
    s.wait_stream(A.current_stream())
    with A.stream(s):
        y = x + 1
    A.current_stream().wait_stream(s)
    del x
    A.synchronize()
    return y


# -- the host reads a pinned buffer before the copy into it has come


def pinned_read_bug() -> torch.Tensor:
    x, pinned = filled(8), torch.empty(8, pin_memory=True)
    A.synchronize()
    pinned.copy_(x, non_blocking=True)  # 1st
    y = pinned + 1  # 2nd
    A.synchronize()
    return y


def pinned_read_right() -> torch.Tensor:
    x, pinned, copied = filled(8), torch.empty(8, pin_memory=True), A.Event()
    pinned.copy_(x, non_blocking=True)
    copied.record(A.current_stream())
    copied.synchronize()
    y = pinned + 1
    pinned.zero_()
    return y


# -- the host writes a pinned buffer anew while it is still being sent


def pinned_write_bug() -> torch.Tensor:
    pinned = torch.ones(8).pin_memory()
    x = pinned.to(DEVICE, non_blocking=True)  # 1st
    pinned.zero_()  # 2nd
    A.synchronize()
    return x


def pinned_write_right() -> torch.Tensor:
    pinned, s = torch.ones(8).pin_memory(), side()
    with A.stream(s):
        x = pinned.to(DEVICE, non_blocking=True)
    s.synchronize()
    pinned.zero_()
    return x


# -- Python reads the host's copy of a number that has not come


def pinned_list_bug() -> torch.Tensor:
    x = filled(8)
    A.synchronize()
    arrived = x.to("cpu", non_blocking=True)  # 1st
    y = torch.tensor(arrived.tolist())  # 2nd
    A.synchronize()
    return y


def pinned_list_right() -> torch.Tensor:
    x = filled(8)
    arrived = x.to("cpu")
    return torch.tensor(arrived.tolist())


# -- Python reads a number that another stream has not written yet


def list_bug() -> torch.Tensor:
    x, s = filled(8), side()
    A.synchronize()
    with A.stream(s):
        x.mul_(3)  # 1st
    return torch.tensor(x.tolist())  # 2nd


def list_right() -> torch.Tensor:
    x, s = filled(8), side()
    A.synchronize()
    with A.stream(s):
        x.mul_(3)
    s.synchronize()
    return torch.tensor(x.tolist())


# -- two streams copy into one pinned buffer


def pinned_staging_bug() -> torch.Tensor:
    x, s, pinned = filled(8), side(), torch.zeros(8, pin_memory=True)
    A.synchronize()
    pinned.copy_(x, non_blocking=True)  # 1st
    with A.stream(s):
        y = pinned.to(DEVICE, non_blocking=True)  # 2nd
    A.synchronize()
    return y


def pinned_staging_right() -> torch.Tensor:
    x, s, pinned = filled(8), side(), torch.zeros(8, pin_memory=True)
    pinned.copy_(x, non_blocking=True)
    s.wait_stream(A.current_stream())
    with A.stream(s):
        y = pinned.to(DEVICE, non_blocking=True)
    A.synchronize()
    return y


# -- memory that torch fills on the host's side before the device has it


def filled_elsewhere_right() -> torch.Tensor:
    x = filled(8)
    return copy.deepcopy(x)[torch.tensor([1, 2])] + 1


# -- memory that nobody has written


def unwritten_bug() -> torch.Tensor:
    x = torch.empty(8, device=DEVICE)
    x[:6].fill_(1)
    y = x + 1  # 1st
    A.synchronize()
    return torch.nan_to_num(y)


def unwritten_right() -> torch.Tensor:
    x = torch.empty(8, device=DEVICE)
    x[:6].fill_(1)
    x[6:].fill_(2)
    y = x + 1
    A.synchronize()
    return y


# -- memory that nobody has written is carried about, and used or overwritten


def carried_bug() -> torch.Tensor:
    x = torch.empty(8, device=DEVICE)
    y = x.to(torch.bfloat16)  # 1st
    z = torch.cat([torch.ones(8, dtype=torch.bfloat16, device=DEVICE), y])
    return torch.nan_to_num(z)  # 2nd


def carried_right() -> torch.Tensor:
    x = torch.empty(8, device=DEVICE)
    y = x.to(torch.bfloat16)
    z = torch.cat([torch.ones(8, dtype=torch.bfloat16, device=DEVICE), y])
    z[8:].fill_(2)
    return z + 1


# -- arguments that an operator does not read, and memory that it fills in part


def unread_right() -> torch.Tensor:
    a, out = filled(2, 3, 3), torch.empty(4, device=DEVICE)
    b = torch.baddbmm(torch.empty(2, 3, 3, device=DEVICE), a, a, beta=0, alpha=0.5)
    c = torch.addmm(torch.empty(3, 3, device=DEVICE), a[0], a[1], beta=0)
    out.index_copy_(0, torch.arange(4, device=DEVICE), filled(4))
    return b.sum() + c.sum() + out.sum()


def shape_right() -> torch.Tensor:
    """A tensor that keeps the shape alone reads nothing."""
    kept = torch.empty(8, device=DEVICE).to("meta")
    return filled(*kept.shape)


def scaled_bug() -> torch.Tensor:
    a = filled(3, 3)
    c = torch.addmm(torch.empty(3, 3, device=DEVICE), a, a, beta=0.5)  # 1st
    A.synchronize()
    return torch.nan_to_num(c)


# -- collectives


def connect() -> None:
    import deepspeed

    deepspeed.init_distributed(dist_backend=A.communication_backend_name(), verbose=False)


def unwaited_bug() -> torch.Tensor:
    import deepspeed.comm as dist

    connect()
    x = filled(8)
    A.synchronize()
    work = dist.all_reduce(x, async_op=True)  # 1st
    y = x + 1  # 2nd
    work.wait()
    A.synchronize()
    return y


def unwaited_right() -> torch.Tensor:
    import deepspeed.comm as dist

    connect()
    x = filled(8)
    work = dist.all_reduce(x, async_op=True)
    work.wait()
    return x + 1


def reused_input_bug() -> torch.Tensor:
    import deepspeed.comm as dist

    connect()
    x, y = filled(8), torch.empty(8 * dist.get_world_size(), device=DEVICE)
    A.synchronize()
    work = dist.all_gather_into_tensor(y, x, async_op=True)  # 1st
    x.zero_()  # 2nd
    work.wait()
    A.synchronize()
    return y


def reused_input_right() -> torch.Tensor:
    import deepspeed.comm as dist

    connect()
    x, y = filled(8), torch.empty(8 * dist.get_world_size(), device=DEVICE)
    work = dist.all_gather_into_tensor(y, x, async_op=True)
    work.wait()
    x.zero_()
    return y


def wrong_stream_waits_bug() -> torch.Tensor:
    import deepspeed.comm as dist

    connect()
    x, s = filled(8), side()
    A.synchronize()
    work = dist.all_reduce(x, async_op=True)  # 1st
    with A.stream(s):
        work.wait()  # makes the side stream wait, not this one
    y = x + 1  # 2nd
    A.synchronize()
    return y


def wrong_stream_waits_right() -> torch.Tensor:
    import deepspeed.comm as dist

    connect()
    x, s = filled(8), side()
    A.synchronize()
    work = dist.all_reduce(x, async_op=True)
    with A.stream(s):
        work.wait()
        y = x + 1
    A.synchronize()
    return y


if __name__ == "__main__":
    result = globals()[sys.argv[1]]()
    print(result.sum().item())
