"""A user's training loop that writes the weights between two passes, in one of the ways in which people do."""

import argparse
import os
import tempfile
from types import SimpleNamespace

import deepspeed
import torch
from deepspeed.accelerator import get_accelerator
from deepspeed.runtime.zero import GatheredParameters

parser = argparse.ArgumentParser()
parser.add_argument("how", choices=["checkpoint", "universal", "state-dict", "gathered", "average"])
parser.add_argument("--hpz", type=int, default=2)
# In its first two passes DeepSpeed records its trace and exchanges it: since 0.15.4 that makes the host wait where the
# next pass starts, which hides the fault. Before 0.14.3 a timer that cannot be switched off hides it from the third on.
parser.add_argument("--warm-up", type=int, default=2)
parser.add_argument(
    "--rollback", type=int, default=0, help="steps between saving a checkpoint and loading it"
)
args = parser.parse_args()

FOLDER = f"{tempfile.gettempdir()}/between-passes-{os.environ['MASTER_PORT']}"  # the same on all ranks
CONFIG = {
    "train_micro_batch_size_per_gpu": 2,
    "zero_allow_untested_optimizer": True,
    "bf16": {"enabled": True},
    "zero_optimization": {
        "stage": 3,
        "overlap_comm": True,
        "zero_hpz_partition_size": args.hpz,
        "stage3_param_persistence_threshold": 0,
        "stage3_max_reuse_distance": 0,
        "stage3_max_live_parameters": 3000,
        "stage3_prefetch_bucket_size": 1000,
        "reduce_bucket_size": 4000,
    },
    "timers": {"throughput": {"enabled": False}},
}


def start(config):
    torch.manual_seed(0)
    model = torch.nn.Sequential(*(torch.nn.Linear(32, 32) for _ in range(4)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    return deepspeed.initialize(model=model, optimizer=optimizer, config=config)[0]


def train(engine):
    batch = get_accelerator().pin_memory(torch.randn(2, 32, dtype=torch.bfloat16))
    batch = batch.to(
        get_accelerator().current_device_name(), non_blocking=True
    )  # a copy that waits hides the fault
    engine.backward(engine(batch).float().pow(2).mean())
    engine.step()


def warm_up(engine):
    for _ in range(args.warm_up):
        train(engine)


engine = start(CONFIG)
warm_up(engine)
if args.how in ("checkpoint", "universal"):
    engine.save_checkpoint(FOLDER, tag="last")
if args.how == "universal":
    if engine.global_rank == 0:
        from deepspeed.checkpoint import ds_to_universal  # of ZeRO-3 since 0.15

        words = {"input_folder": f"{FOLDER}/last", "output_folder": f"{FOLDER}/universal"}
        ds_to_universal.main(
            SimpleNamespace(
                **words,
                num_extract_workers=1,
                num_merge_workers=1,
                keep_temp_folder=False,
                strict=True,
                inject_missing_state=False,
            )
        )
    deepspeed.comm.barrier()
    engine = start({**CONFIG, "checkpoint": {"load_universal": True}})
    warm_up(engine)
parameters = list(engine.module.parameters())
if args.how == "checkpoint":
    for _ in range(args.rollback):
        train(engine)
    engine.load_checkpoint(FOLDER, tag="last")
elif args.how == "universal":
    engine.load_checkpoint(FOLDER, tag="universal")
elif args.how == "state-dict":
    weights = {name: torch.zeros(p.ds_shape, dtype=p.dtype) for name, p in engine.module.named_parameters()}
    engine.load_module_state_dict({"module": weights}, fetch_z3_params=True)
elif args.how == "gathered":
    with GatheredParameters(parameters, modifier_rank=0):
        if engine.global_rank == 0:
            for parameter in parameters:
                torch.nn.init.normal_(parameter, std=0.02)
elif args.how == "average":
    for parameter in parameters:
        parameter.ds_tensor.lerp_(torch.zeros_like(parameter.ds_tensor), 0.5)
train(engine)
