"""A program of torch alone, without DeepSpeed: its optimizer's steps are the steps, and its streams are judged."""

from __future__ import annotations

from pathlib import Path

from tests.deepspeed.race.test_race_scripts import hpz_race

TRAIN = """
import torch

model = torch.nn.Linear(8, 1).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
side = torch.cuda.Stream()
for batch in torch.randn(50, 4, 8).pin_memory():
    with torch.cuda.stream(side):
        data = batch.to("cuda", non_blocking=True)
    loss = model(data).square().mean()
    loss.backward()
    optimizer.step()
    print(loss.item())
"""


def test_steps_of_a_plain_torch_optimizer_are_counted_and_end_the_script(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    words = ("--script", str(script), "--ranks", "1", "--steps", "2", "--no-explore")
    report = hpz_race(*words, results=tmp_path / "results")
    assert (report["steps"], report["problems"]) == (2, [])
    assert {name for race in report["races"] for name in race["names"]} == {"data"}  # type: ignore[attr-defined]


OFFLOADED = """
import torch

weight = torch.nn.Parameter(torch.ones(64, device="cuda"))
copies = {weight: torch.ones(64).pin_memory().requires_grad_()}  # no variable of the loop is called after them
copies[weight].grad = torch.zeros(64).pin_memory()
optimizer = torch.optim.AdamW(list(copies.values()))
for _ in range(3):
    (weight * 2).sum().backward()
    copies[weight].grad.copy_(weight.grad, non_blocking=True)  # read by the host before it is there
    optimizer.step()
    weight.data.copy_(copies[weight].data)
"""


def test_copies_on_the_host_are_called_after_the_optimizer_that_steps_them(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(OFFLOADED)
    report = hpz_race("--script", str(script), "--ranks", "1", "--no-explore", results=tmp_path / "results")
    names = {name for race in report["races"] for name in race["names"]}  # type: ignore[attr-defined]
    assert names == {"AdamW.parameter0.grad"}
