"""Configurations are read in the forms that people hold them, and what is none is said to be none."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.configuration import Found, checked, read_arguments, read_configuration, resolved
from harness.system.errors import HarnessError

HPZ = {"zero_optimization": {"stage": 3, "zero_hpz_partition_size": 8}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "ds.json").write_text(json.dumps(HPZ))
    return tmp_path


def read(folder: Path, name: str, text: str | bytes) -> Found:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(text, bytes):
        file.write_bytes(text)
    else:
        file.write_text(text)
    return read_configuration(file)


PLAIN = json.dumps(HPZ)


@pytest.mark.parametrize(
    "content",
    [
        PLAIN.encode(),
        PLAIN.encode("utf-8-sig"),
        PLAIN.encode("utf-16"),
        PLAIN.replace("3,", "3, // the stage\n").encode(),
        PLAIN.replace("8}}", "8,}}").encode(),
        b"{\n  # mine\n  zero_optimization: {\n    stage: 3\n    zero_hpz_partition_size: 8\n  }\n}",
        b"eyJ6ZXJvX29wdGltaXphdGlvbiI6IHsic3RhZ2UiOiAzLCAiemVyb19ocHpfcGFydGl0aW9uX3NpemUiOiA4fX0=",
        b"zero_optimization:\n  stage: 3\n  zero_hpz_partition_size: 8\n",
    ],
    ids=["json", "mark", "utf-16", "comment", "trailing-comma", "hjson", "base64", "yaml"],
)
def test_deepspeeds_file_in_every_way_that_it_is_written(folder: Path, content: bytes) -> None:
    assert read(folder, "written.json", content).deepspeed == HPZ


def test_hjson_is_said_to_be_that(folder: Path) -> None:
    (remark,) = read(folder, "a.json", '{"zero_optimization": {"stage": 3,}}').remarks
    assert remark.kind == "syntax" and "Hugging Face's integration does not" in remark.text


def test_a_key_that_stands_there_twice_is_said(folder: Path) -> None:
    (remark,) = read(folder, "a.json", '{"train_batch_size": 8, "train_batch_size": 4}').remarks
    assert remark.kind == "refused" and "train_batch_size stands there twice" in remark.text


def test_accelerate_names_the_file_and_the_ranks(folder: Path) -> None:
    found = read(
        folder,
        "accelerate.yaml",
        "distributed_type: DEEPSPEED\nmixed_precision: bf16\nnum_machines: 3\nnum_processes: 24\n"
        "deepspeed_config:\n  deepspeed_config_file: ds.json\n  zero3_init_flag: true\n",
    )
    assert (found.deepspeed, found.world_size, found.ranks_per_node) == (HPZ, 24, 8)
    assert "accelerate" in found.facts


def test_accelerates_own_keys_are_read_and_hpz_among_them_is_said_to_be_ignored(folder: Path) -> None:
    found = read(
        folder,
        "accelerate.yaml",
        "distributed_type: DEEPSPEED\nmixed_precision: bf16\nnum_processes: 8\nnum_machines: 1\n"
        "deepspeed_config:\n  zero_stage: 3\n  offload_param_device: cpu\n  zero_hpz_partition_size: 8\n",
    )
    assert found.deepspeed is not None
    assert found.deepspeed["zero_optimization"] == {"stage": 3, "offload_param": {"device": "cpu"}}
    assert found.deepspeed["bf16"] == {"enabled": True}
    assert "no key of Accelerate's, which ignores it" in found.remarks[0].text


RECIPES = {
    "sft.yaml": "model_name_or_path: org/Model-7B\nstage: sft\nfinetuning_type: full\ntemplate: chatml\n"
    "deepspeed: ds.json\nper_device_train_batch_size: 2\nbf16: true\n",
    "axolotl.yml": "base_model: org/Model-7B\nsequence_len: 64\nmicro_batch_size: 2\ndeepspeed: ds.json\nbf16: true\n",
    "args.json": '{"model": "org/Model-7B", "per_device_train_batch_size": 2, "bf16": true, "deepspeed": "ds.json"}',
    "inline.yaml": "output_dir: out\nper_device_train_batch_size: 2\nbf16: true\nmodel_name_or_path: org/Model-7B\n"
    "deepspeed:\n  zero_optimization: {stage: 3, zero_hpz_partition_size: 8}\n",
}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_followed(folder: Path, name: str) -> None:
    found = read(folder, name, RECIPES[name])
    assert found.deepspeed == HPZ
    assert found.arguments["per_device_train_batch_size"] == 2
    assert found.model == "org/Model-7B"
    assert {"transformers trainer", "loads weights"} <= found.facts


def test_a_recipe_names_files_from_its_projects_root(folder: Path) -> None:
    (folder / "configs").mkdir()
    (folder / "configs" / "ds.json").write_text(json.dumps(HPZ))
    text = RECIPES["sft.yaml"].replace("ds.json", "configs/ds.json")
    assert read(folder, "examples/train/full.yaml", text).deepspeed == HPZ
    with pytest.raises(HarnessError, match=r"names ds.json, which is not here"):
        read(folder, "examples/train/other.yaml", RECIPES["sft.yaml"])


def test_ms_swifts_own_names_are_known(folder: Path) -> None:
    found = read(
        folder,
        "run.sh",
        "NPROC_PER_NODE=8 NNODES=2 swift sft --deepspeed zero3 --zero_hpz_partition_size 8 --model m\n",
    )
    assert found.deepspeed is not None and (found.world_size, found.ranks_per_node) == (16, 8)
    zero = found.deepspeed["zero_optimization"]
    assert (zero["stage"], zero["zero_hpz_partition_size"], zero["overlap_comm"]) == (3, 8, "auto")


SBATCH = """#!/bin/bash
#SBATCH --job-name=big
#SBATCH --nodes=4            # of the partition's 16
#SBATCH --ntasks-per-node=1
#SBATCH --gres=gpu:a100:8
GPUS_PER_NODE=8
pip install deepspeed==0.13.2 torch==2.1.2
export LAUNCHER="torchrun --nnodes $SLURM_NNODES --nproc_per_node $GPUS_PER_NODE"
srun $LAUNCHER train.py --deepspeed ds.json \\
    --bf16 True --per_device_train_batch_size 4 \\
    --gradient_accumulation_steps=2
"""


def test_an_sbatch_file_holds_ranks_release_and_arguments(folder: Path) -> None:
    found = read(folder, "job.sbatch", SBATCH)
    assert (found.world_size, found.ranks_per_node) == (32, 8)
    assert (found.release, found.torch) == ("0.13.2", "2.1.2")
    assert found.deepspeed == HPZ
    assert (found.arguments["bf16"], found.arguments["gradient_accumulation_steps"]) == ("True", "2")


LAUNCHES = {
    "deepspeed --num_nodes 2 --num_gpus 8 train.py --deepspeed_config ds.json": (16, 8),
    "deepspeed --num_gpus=4 train.py --deepspeed --deepspeed_config=ds.json": (4, 4),
    "torchrun --nproc-per-node 8 train.py --deepspeed ds.json": (8, 8),
    "accelerate launch --num_processes 16 --num_machines 2 --use_deepspeed --deepspeed_config_file ds.json train.py": (
        16,
        8,
    ),
    "CUDA_VISIBLE_DEVICES=0,1,2,3\ntorchrun train.py --deepspeed ds.json": (4, 4),
    "N=2\nG=8\ntorchrun --nnodes ${N} --nproc_per_node ${G:-4} t.py --deepspeed ds.json": (16, 8),
    "N=2\nG=8\naccelerate launch --num_machines $N --num_processes $((N * G)) --deepspeed_config_file ds.json t.py": (
        16,
        8,
    ),
    "deepspeed --hostfile hosts train.py --deepspeed ds.json": (None, None),
    "deepspeed --hostfile=three.hosts train.py --deepspeed ds.json": (12, 4),
    "deepspeed --include localhost:4,5,6,7 train.py --deepspeed ds.json": (4, 4),
    "deepspeed --include=a:0,1@b:0,1 train.py --deepspeed ds.json": (4, 2),
    "deepspeed --include=a@b:0,1 --num_gpus 8 --hostfile hosts train.py --deepspeed ds.json": (None, 8),
    # nodes that only the platform knows
    "NNODES=$WORLD_SIZE NPROC_PER_NODE=8 swift sft --deepspeed ds.json": (None, 8),
    "torchrun --nnodes $WORLD_SIZE --nproc_per_node 8 train.py --deepspeed ds.json": (None, 8),
    "NNODES=$SLURM_NTASKS\ntorchrun --nnodes=$NNODES --nproc_per_node=8 train.py --deepspeed ds.json": (
        None,
        8,
    ),
    "torchrun --standalone --nproc_per_node=8 train.py --deepspeed ds.json": (8, 8),
    "#SBATCH -N 2 --gres=gpu:4\nsrun torchrun --nnodes 2 --nproc_per_node gpu train.py --deepspeed ds.json": (
        8,
        4,
    ),
    "#SBATCH -N 2 --gres=gpu:4\nN=$(scontrol show hostnames $SLURM_JOB_NODELIST | wc -l)\n"
    "torchrun --nnodes $N --nproc_per_node `nvidia-smi -L | wc -l` train.py --deepspeed ds.json": (8, 4),
    "#SBATCH -N 4\nip=$(srun --nodes=1 --ntasks=1 -w $head hostname)\n"
    "srun torchrun --nproc_per_node 8 --nnodes 4 train.py --deepspeed ds.json": (32, 8),
    "#SBATCH -N 4\nfor n in $all; do srun -N1 -n 1 -w $n torchrun --nproc_per_node 8 t.py --deepspeed ds.json; done": (
        32,
        8,
    ),
    "#SBATCH -N 2 --gpus=a100:16\nsrun torchrun --nproc_per_node auto t.py --deepspeed ds.json": (16, 8),
    "#SBATCH --nodes=2 --ntasks=16\nsrun python t.py --deepspeed ds.json": (16, 8),
    "python -m openrlhf.cli.train_ppo_ray --ref_num_nodes 1 --actor_num_nodes 2 --actor_num_gpus_per_node 8 "
    "--critic_num_nodes 1 --deepspeed ds.json": (16, 8),
    "python -m ppo --actor.num_nodes 2 --actor.num_gpus_per_node 8 --ref.num_nodes 1 --deepspeed ds.json": (
        16,
        8,
    ),
    "srun -p gpu -N 2 -n 16 --ntasks-per-node=8 python -u t.py --deepspeed ds.json -n 3": (16, 8),
    "mpirun -np $((4*8)) -npernode 8 -x NCCL_DEBUG python t.py --deepspeed ds.json": (32, 8),
    "/opt/openmpi/bin/mpirun -np 4 --map-by ppr:1:node bash -c 'deepspeed --num_gpus 8 t.py --deepspeed ds.json'": (
        32,
        8,
    ),
    "# mpirun -np 64 python t.py\nmpirun -np 16 -N 4 python t.py --deepspeed ds.json": (16, 4),
    "mpiexec -n 16 python t.py --deepspeed ds.json": (16, None),
    # 8 ranks of one node of the two, or of each: accelerate would be told by --num_machines
    "#SBATCH -N 2\n#SBATCH --gpus-per-node=8\naccelerate launch --num_processes 8 --config_file ds.json t.py": (
        None,
        8,
    ),
    "queue.py --num_nodes 2 --gpus 8 -- accelerate launch --num_processes 8 --deepspeed_config_file ds.json t.py": (
        None,
        8,
    ),
}


@pytest.mark.parametrize("line", LAUNCHES)
def test_the_number_of_ranks_is_read_where_it_is_written(folder: Path, line: str) -> None:
    (folder / "three.hosts").write_text("a slots=4\nb slots=4\n# d slots=4\nc slots=4\n")
    found = read(folder, "run.sh", f"#!/bin/bash\n{line}\n")
    assert (found.world_size, found.ranks_per_node) == LAUNCHES[line]


QUEUED = {
    # What PBS and LSF are asked for → world size and ranks on a node
    "#PBS -l select=2:ncpus=64:ngpus=4:mpiprocs=4\nmpiexec -n 8 --ppn 4 python t.py --deepspeed ds.json": (
        8,
        4,
    ),
    "#PBS -lselect=2:ngpus=4\npython t.py --deepspeed ds.json": (8, 4),
    "#PBS -l nodes=2:ppn=16:gpus=4\npython t.py --deepspeed ds.json": (8, 4),
    "#PBS -l select=8:ngpus=1\nmpirun python t.py --deepspeed ds.json": (8, None),
    "#PBS -l select=8:ngpus=1\n#PBS -l place=scatter\nmpirun python t.py --deepspeed ds.json": (8, 1),
    "#PBS -l select=1:ngpus=2+3:ngpus=4\npython t.py --deepspeed ds.json": (None, None),
    "#PBS -l select=9\nN=`wc -l < $PBS_NODEFILE`\nmpiexec -n $(( N * 4 )) --ppn 4 python t.py --deepspeed ds.json": (
        36,
        4,
    ),
    "#PBS -l select=2:mpiprocs=4\nN=$(sort -u $PBS_NODEFILE | wc -l)\nL=$(wc -l < $PBS_NODEFILE)\n"
    "torchrun --nnodes $N --nproc_per_node $((L / N)) t.py --deepspeed ds.json": (8, 4),
    "#PBS -l select=9\nsed -e 's/$/ slots=4/' $PBS_NODEFILE > hosts\n"
    "deepspeed --hostfile=hosts t.py --deepspeed ds.json": (36, 4),
    '#BSUB -nnodes 4\n#BSUB -gpu "num=6:mode=shared"\npython t.py --deepspeed ds.json': (24, 6),
}


@pytest.mark.parametrize("line", QUEUED)
def test_other_schedulers_are_asked_for_nodes_and_gpus(folder: Path, line: str) -> None:
    found = read(folder, "run.sh", f"#!/bin/bash\n{line}\n")
    assert found.form in ("PBS file", "LSF file")
    assert (found.world_size, found.ranks_per_node) == QUEUED[line]


def test_a_configuration_that_a_script_writes_itself_is_read(folder: Path) -> None:
    text = "#!/bin/bash\nMICRO=4\nFILE=ds_$SLURM_JOB_ID.json\ncat <<EOT > $FILE\n" + PLAIN.replace(
        "}}", ', "reduce_bucket_size": 5e8}, "train_micro_batch_size_per_gpu": $MICRO}'
    )
    found = read(folder, "job.sh", text + "\nEOT\nsrun python pretrain.py --deepspeed_config $FILE\n")
    assert found.deepspeed is not None
    assert found.deepspeed["train_micro_batch_size_per_gpu"] == 4
    assert found.deepspeed["zero_optimization"]["zero_hpz_partition_size"] == 8


SCRIPT = """
import deepspeed, torch
STAGE = 3
config = {
    "train_micro_batch_size_per_gpu": 2,
    "zero_optimization": {"stage": STAGE, "zero_hpz_partition_size": 8, "reduce_bucket_size": 5 * 10**7},
    "gradient_clipping": args.clip,
}
with deepspeed.zero.Init(config_dict_or_path=config):
    model = AutoModel.from_pretrained("org/Mixtral-8x7B")
with deepspeed.zero.Init(config_dict_or_path=config):
    reward = Reward()
model = torch.compile(model)
engine, *_ = deepspeed.initialize(model=model, config=config)
engine.load_checkpoint("saved")
"""


def test_a_python_script_holds_a_configuration_and_facts(folder: Path) -> None:
    found = read(folder, "train.py", SCRIPT)
    assert found.deepspeed is not None and found.facts_read
    assert found.deepspeed["zero_optimization"]["stage"] == 3
    assert found.deepspeed["zero_optimization"]["reduce_bucket_size"] == 50_000_000
    assert found.unread == {"gradient_clipping"}
    assert {"two zero.Init", "compile", "loads weights", "moe"} <= found.facts


def test_a_python_script_names_a_file(folder: Path) -> None:
    text = 'args = TrainingArguments(output_dir="out", deepspeed="ds.json", bf16=True)\nTrainer(args=args).train()\n'
    found = read(folder, "train.py", text)
    assert found.deepspeed == HPZ
    assert found.arguments["bf16"] is True


@pytest.mark.parametrize(
    "call",
    [
        'Trainer(strategy="deepspeed_stage_3_offload", devices=8)',
        "Trainer(strategy=DeepSpeedStrategy(stage=3))",
        "Accelerator(deepspeed_plugin=DeepSpeedPlugin(zero_stage=3, gradient_accumulation_steps=2))",
    ],
)
def test_a_python_script_switches_zero_on_by_an_argument(folder: Path, call: str) -> None:
    found = read(folder, "train.py", f"trainer = {call}\n")
    assert found.deepspeed is not None and found.deepspeed["zero_optimization"]["stage"] == 3


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        (
            "config.json",
            '{"model_type": "llama", "hidden_size": 8}',
            "is a model's config.json, no DeepSpeed configuration",
        ),
        (
            "package.json",
            '{"name": "x", "version": "1"}',
            "none of its keys .name, version. is one of DeepSpeed's",
        ),
        ("broken.json", "{", "line 1: neither JSON nor Hjson"),
        ("list.json", "[]", "must hold one object of keys"),
        ("notes.txt", "hello", "line 1: not JSON"),
        (
            "fsdp.yaml",
            "distributed_type: FSDP\nnum_processes: 8\n",
            "distributed_type is FSDP: this trains without DeepSpeed",
        ),
        (
            "sft.yaml",
            "template: chatml\nfinetuning_type: full\n",
            "names no DeepSpeed configuration .key deepspeed.; Give the one that",
        ),
        (
            "sft2.yaml",
            "template: chatml\ndeepseed: ds.json\n",
            "did you mean deepspeed by deepseed",
        ),
        ("run.sh", "torchrun train.py --deepspeed gone.json\n", "names gone.json, which is not here"),
        ("plain.sh", "echo hello\n", "names no DeepSpeed configuration"),
        ("train.py", "print(1)\n", "holds no DeepSpeed configuration"),
        ("bad.py", "def\n", "line 1: not Python"),
        ("circle.yaml", "deepspeed: circle.yaml\noutput_dir: x\n", "and so on in a circle"),
    ],
)
def test_what_holds_no_configuration_is_refused_in_one_sentence(
    folder: Path, name: str, text: str, sentence: str
) -> None:
    with pytest.raises(HarnessError, match=sentence) as refused:
        read(folder, name, text)
    assert "\n" not in str(refused.value)


AUTO = {
    "fp16": {"enabled": "auto"},
    "bf16": {"enabled": "auto"},
    "gradient_accumulation_steps": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "train_batch_size": "auto",
    "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": "auto", "overlap_comm": "auto"},
}


def test_auto_is_filled_in_as_the_trainer_does() -> None:
    arguments = {"bf16": "True", "per_device_train_batch_size": "2", "gradient_accumulation_steps": 4}
    config, remarks = resolved(AUTO, arguments, world_size=8, width=4096)
    assert (config["bf16"]["enabled"], config["fp16"]["enabled"]) == (True, False)
    assert (config["gradient_accumulation_steps"], config["train_batch_size"]) == (4, 64)
    assert config["zero_optimization"]["stage3_param_persistence_threshold"] == 40960
    assert [one.key for one in remarks] == ["zero_optimization.overlap_comm"]  # which nobody fills in


def test_auto_without_the_trainers_arguments_is_said_to_be_unknown() -> None:
    config, remarks = resolved(AUTO, {})
    assert config == AUTO
    assert [one.kind for one in remarks] == ["ignored", "auto"]
    assert "give --trainer-args and --model" in remarks[1].text


def test_arguments_come_from_a_line_or_a_file(folder: Path) -> None:
    assert read_arguments("--bf16 True --max_steps=10 --tf32").arguments == {
        "bf16": "True",
        "max_steps": "10",
        "tf32": True,
    }
    (folder / "sft.yaml").write_text(RECIPES["sft.yaml"])
    assert read_arguments(str(folder / "sft.yaml")).arguments["bf16"] is True
    (folder / "run.sh").write_text("torchrun train.py \\\n  --bf16 true --learning_rate 1e-5\n")
    assert read_arguments(str(folder / "run.sh")).arguments == {"bf16": "true", "learning_rate": "1e-5"}
    with pytest.raises(HarnessError, match=r"holds no arguments such as --bf16 True"):
        read_arguments("bf16")


FORMS = {
    # What people call scripts with, and what stands in them: hpZ's size, ranks in all and on a node.
    "srun bash -c 'torchrun \\\n --nproc-per-node $G --nnodes $SLURM_NNODES t.py --deepspeed ds.json'": (
        8,
        32,
        8,
    ),
    "deepspeed --module cli.train --ds.zero_stage 3 --ds.zpg 4 --ds.param_dtype bf16": (4, None, None),
    "accelerate launch --use_deepspeed --zero_stage 3 --num_processes 8 --num_machines 1 other.py": (1, 8, 8),
    'sed "s/STAGE/3/" template.json | sed "s/HPZ/$G/" > made.json\ndeepspeed t.py --deepspeed_config made.json': (
        8,
        None,
        None,
    ),
    "deepspeed --num_gpus 8 t.py --size 2": (2, 8, 8),
}


OVERRIDES = {
    "python -m rl a.ds.zero_optimization.stage=3 a.ds.zero_optimization.zero_hpz_partition_size=8": HPZ,
    "G=8\nrun.py '+a.zero_optimization.stage=3' '++a.zero_optimization.zero_hpz_partition_size='$G": HPZ,
    "run.py r.zero_optimization.stage=3 a.zero_optimization.stage=3 a.zero_optimization.zero_hpz_partition_size=8": HPZ,
    "composer -n 8 train.py gone.yaml zero_optimization.stage=2 zero_optimization.overlap_comm=True x.y=1": {
        "zero_optimization": {"stage": 2, "overlap_comm": True}
    },
    "train.py --config ds.json d.zero_optimization.overlap_comm=false d.bf16.enabled=true d.steps_per_print=1e1": {
        "zero_optimization": {**HPZ["zero_optimization"], "overlap_comm": False},
        "bf16": {"enabled": True},
        "steps_per_print": 10.0,
    },
}


@pytest.mark.parametrize("line", OVERRIDES)
def test_keys_that_a_command_sets_one_by_one_are_read(folder: Path, line: str) -> None:
    found = read(folder, "run.sh", f"#!/bin/bash\n# b.zero_optimization.stage=1\n{line}\n")
    assert found.deepspeed == OVERRIDES[line]
    assert any("read from the command line" in str(remark) for remark in found.remarks)


def test_a_key_that_a_command_sets_without_the_stage_is_no_configuration(folder: Path) -> None:
    with pytest.raises(HarnessError, match="give that file as --config"):
        read(folder, "run.sh", "#!/bin/bash\npython -m rl a.zero_optimization.zero_hpz_partition_size=8\n")


@pytest.mark.parametrize("line", FORMS)
def test_what_stands_in_a_script_is_read_as_the_shell_reads_it(folder: Path, line: str) -> None:
    (folder / "template.json").write_text(
        '{"zero_optimization": {"stage": STAGE, "zero_hpz_partition_size": HPZ}}'
    )
    (folder / "t.py").write_text(
        "import argparse\nparser = argparse.ArgumentParser()\nparser.add_argument('--size', type=int, default=4)\n"
        "args = parser.parse_args()\nzero = {'stage': 3}\nzero['zero_hpz_partition_size'] = args.size\n"
        "config = {'zero_optimization': zero, 'train_micro_batch_size_per_gpu': int(1e0)}\n"
    )
    batch = "#SBATCH -N 4\n" if "SLURM" in line else ""
    found = read(folder, "job.sh", f"#!/bin/bash\n{batch}G=8\n{line}\n")
    assert found.deepspeed is not None
    size, world, per_node = FORMS[line]
    assert found.deepspeed["zero_optimization"].get("zero_hpz_partition_size", 1) == size
    assert (found.world_size, found.ranks_per_node) == (world, per_node)


def test_a_stage_that_only_the_script_knows_is_no_stage_0(folder: Path) -> None:
    with pytest.raises(
        HarnessError, match=r"works out zero_optimization.stage itself; give the configuration"
    ):
        read(folder, "train.py", "import sys\nconfig = {'zero_optimization': {'stage': int(sys.argv[1])}}\n")
    with pytest.raises(HarnessError, match=r"stage is '\$2', a placeholder; put in the number"):
        checked(read(folder, "ds.conf", '{"zero_optimization": {\n"stage": $2\n}}').deepspeed or {})


def test_a_file_that_the_trainer_brings_along_is_known_by_its_name(folder: Path) -> None:
    found = read(
        folder,
        "a.yaml",
        "output_dir: x\ndeepspeed: examples/deepspeed/ds_z3_offload_config.json\nbf16: true\n",
    )
    assert found.deepspeed is not None
    assert found.deepspeed["zero_optimization"]["offload_param"] == {"device": "cpu"}
    assert "known are stage and offloading" in found.remarks[0].text


@pytest.mark.parametrize(
    "text",
    [
        "I use:\n```json\n" + json.dumps(HPZ, indent=2) + "\n```\nand it hangs",
        "my config: " + str(HPZ),
        '   "zero_optimization": {\n "stage": 3,\n\n "zero_hpz_partition_size": 8,\n },\n',
        "cfg:\n" + str(HPZ),
    ],
    ids=["page", "dictionary", "part", "text"],
)
def test_a_configuration_amid_other_text_is_found(folder: Path, text: str) -> None:
    assert read(folder, "post.md", text).deepspeed == HPZ


def test_of_several_configurations_on_a_page_one_is_read_and_said(folder: Path) -> None:
    block = "```json\n{}\n```\n"
    first, second = {"zero_optimization": {"stage": 2}}, {**HPZ, "bf16": {"enabled": True}}
    page = "".join(block.format(json.dumps(one)) for one in (first, second, HPZ))
    found = read(folder, "notes.md", page)
    assert found.deepspeed == second
    assert "read is 2 of 3, the first with hpZ" in str(found.remarks)
    assert "several" not in str(read(folder, "notes.md", block.format(json.dumps(HPZ)) * 2).remarks)


WORDS = st.sampled_from(
    [
        '"zero_optimization"',
        '"stage"',
        ": ",
        "{",
        "}",
        ", ",
        "3",
        '"3"',
        "null",
        "true",
        "'a'",
        "\n",
        "#",
        "//",
        "- ",
        "deepspeed: x.json\n",
        "output_dir: x\n",
        "--deepspeed ds.json ",
        "$A",
        "$((A * 2))",
        "A=2\n",
        "<<EOF > a.json\n",
        "\nEOF\n",
        "config = ",
        "[1, 2]",
        "import x\n",
    ]
)


@pytest.mark.parametrize("suffix", [".json", ".yaml", ".py", ".sh"])
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.lists(WORDS, max_size=20).map("".join))
def test_any_file_is_read_or_refused(folder: Path, suffix: str, text: str) -> None:
    try:
        found = read(folder, f"any{suffix}", text)
        checked(found.deepspeed or {})
    except HarnessError as refused:
        assert "\n" not in str(refused)


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ("--tensor-model-parallel-size 2", "tensor parallel"),
        ("--ds-sequence-parallel-size 4", "sequence parallel"),
        ("--pipeline-model-parallel-size 2", "pipeline parallel"),
        ("--num-experts 128", "moe"),
        ("--torch_compile True", "compile"),
        ("--optim muon", "muon"),
        ("--tensor-model-parallel-size 1 --torch_compile False", ""),
    ],
)
def test_what_the_arguments_switch_on_is_known_as_a_fact(folder: Path, options: str, fact: str) -> None:
    found = read(folder, "run.sh", f"deepspeed train.py --deepspeed_config ds.json {options}\n")
    assert found.facts == ({fact} if fact else set())


def test_of_a_post_the_blocks_of_code_are_read_together(folder: Path) -> None:
    page = (
        "Loss is 0.\n\n```yaml\nmodel_name_or_path: org/M\nfinetuning_type: full\ntemplate: a\ndeepspeed: ds.json\n"
        "bf16: true\n```\nI start it so:\n```bash\ntorchrun --nnodes 2 --nproc_per_node 8 t.py --deepspeed other.json\n"
        "```\n```\nRuntimeError: no\n```\n"
    )
    found = read(folder, "post.md", page)
    assert found.deepspeed == HPZ and (found.world_size, found.ranks_per_node) == (16, 8)
    assert found.arguments["bf16"] is True
    with pytest.raises(HarnessError):
        read(folder, "post.md", "```\nhello\n```\n")


@pytest.mark.parametrize(
    ("words", "ranks"),
    {
        'devices=8, num_nodes=2, precision="bf16-mixed"': (16, 8),
        "devices=[0, 1], precision='16-true'": (2, 2),
        "accelerator='gpu', devices=-1": (None, None),
        "devices='auto', num_nodes=4": (None, None),
    }.items(),
)
@pytest.mark.parametrize("made", ["Trainer", "L.Fabric"])
def test_lightning_says_ranks_and_precision(
    folder: Path, made: str, words: str, ranks: tuple[int | None, int | None]
) -> None:
    found = read(folder, "fit.py", f"t = {made}({words}, strategy=DeepSpeedStrategy(config='ds.json'))\n")
    assert (found.world_size, found.ranks_per_node) == ranks and found.deepspeed == HPZ
    assert "transformers trainer" not in found.facts
    assert dict(found.arguments) == (
        {"bf16": True} if "bf16" in words else {"fp16": True} if "16" in words else {}
    )


LIGHTNING = {
    # Recipes of Hydra and of Lightning's CLI → ZeRO's keys, world size, precision
    "accelerator: gpu\ndevices: 4\nnum_nodes: 2\nmax_steps: 9\nprecision: bf16-mixed\nstrategy: deepspeed_stage_3\n": (
        {"stage": 3},
        8,
        {"bf16": True},
    ),
    "strategy: deepspeed_stage_3_offload\ndevices: [0, 1]\n": (
        {"stage": 3, "offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}},
        2,
        {},
    ),
    "trainer: {devices: 8, strategy: {class_path: a.DeepSpeedStrategy, init_args: {stage: 3}}}\n": (
        {"stage": 3},
        8,
        {},
    ),
    "trainer: {devices: 8, num_nodes: 2, strategy: {_target_: a.DeepSpeedStrategy, config: ds.json}}\n": (
        HPZ["zero_optimization"],
        16,
        {},
    ),
    "fabric: {devices: auto, strategy: {_target_: a.DeepSpeedStrategy, config: {zero_optimization: {stage: 1}}}}\n": (
        {"stage": 1},
        None,
        {},
    ),
}


@pytest.mark.parametrize("text", LIGHTNING)
def test_a_recipe_of_lightning_is_read(folder: Path, text: str) -> None:
    found = read(folder, "trainer.yaml", text)
    assert ((found.deepspeed or {})["zero_optimization"], found.world_size, found.arguments) == LIGHTNING[
        text
    ]


def test_a_recipe_of_lightning_without_deepspeed_is_said_to_be_that(folder: Path) -> None:
    with pytest.raises(
        HarnessError, match=r"trainer.yaml: the strategy is ddp: this trains without DeepSpeed"
    ):
        read(folder, "trainer.yaml", "trainer: {devices: 8, strategy: ddp}\n")


JOBS = {
    # Kubeflow, SkyPilot, AzureML, Compose, VS Code → release, world size and ranks on a node
    "pod.yaml": (
        """
        kind: PyTorchJob
        spec:
          containers:
            - env: [{name: NODES, value: "4"}]
              command: [torchrun, "--nnodes=$NODES"]
              args: [--nproc_per_node, "8", train.py, --deepspeed, ds.json]
        """,
        (None, 32, 8),
    ),
    "pods.yaml": (
        """
        kind: PyTorchJob
        spec:
          nprocPerNode: auto
          pytorchReplicaSpecs:
            Master:
              replicas: 1
              template: {spec: {containers: [&pod {
                command: [torchrun, train.py, --deepspeed, ds.json],
                resources: {limits: {nvidia.com/gpu: 8}}}]}}
            Worker: {replicas: 3, template: {spec: {containers: [*pod]}}}
        """,
        (None, 32, 8),
    ),
    "mpi.yaml": (
        """
        kind: MPIJob
        spec:
          slotsPerWorker: 4
          mpiReplicaSpecs:
            Launcher: {replicas: 1, spec: {containers: [{command: [mpirun, python, train.py, --deepspeed, ds.json]}]}}
            Worker: {replicas: 2}
        """,
        (None, 8, 4),
    ),
    "sky.yaml": (
        """
        resources: {accelerators: "A100:8"}
        num_nodes: 4
        setup: |
          pip install deepspeed==0.13.4
        run: |
          torchrun --nnodes=$SKYPILOT_NUM_NODES --nproc_per_node=$SKYPILOT_NUM_GPUS_PER_NODE \\
            train.py --deepspeed ds.json
        """,
        ("0.13.4", 32, 8),
    ),
    "azure.yaml": (
        """
        command: python train.py --deepspeed ds.json
        distribution: {type: pytorch, process_count_per_instance: 8}
        resources: {instance_count: 2}
        """,
        (None, 16, 8),
    ),
    "compose.yaml": (
        """
        services:
          cache: {image: redis, command: redis-server}
          train: {command: "deepspeed --num_gpus 8 train.py --deepspeed_config $DS", environment: [DS=ds.json]}
        """,
        (None, 8, 8),
    ),
    "launch.json": (
        '{"version": "0.2.0", "configurations": [{"program": "train.py", "args": ["--deepspeed", "ds.json"]}]}',
        (None, None, None),
    ),
}


@pytest.mark.parametrize("name", JOBS)
def test_the_command_in_a_jobs_description_is_read(folder: Path, name: str) -> None:
    text, known = JOBS[name]
    found = read(folder, name, textwrap.dedent(text))
    assert (found.form, found.deepspeed) == ("description of a job", HPZ)
    assert (found.release, found.world_size, found.ranks_per_node) == known


@pytest.mark.parametrize(
    ("accelerators", "here"),
    [("{A100: 8}", 8), ('["A100:8", "H100:8"]', 8), ('["A100:8", "L4:4"]', None), ("L4", None)],
)
def test_gpus_of_a_node_are_known_where_all_that_would_do_have_as_many(
    folder: Path, accelerators: str, here: int | None
) -> None:
    run = "torchrun --nproc_per_node=$SKYPILOT_NUM_GPUS_PER_NODE train.py --deepspeed ds.json"
    found = read(folder, "sky.yaml", f"resources: {{accelerators: {accelerators}}}\nrun: {run}\n")
    assert found.ranks_per_node == here


def test_a_description_that_starts_no_training_is_none(folder: Path) -> None:
    with pytest.raises(HarnessError, match="is no DeepSpeed configuration"):
        read(folder, "pod.yaml", "kind: Pod\nspec: {containers: [{command: [sleep, infinity]}]}\n")


MADE = """
import argparse

def ds_config(offload, stage=2, bf16=True, zpg=1, dtype=None):
    device = {{"device": "cpu" if offload else "none"}}
    zero = {{"stage": stage, "zero_hpz_partition_size": zpg, "offload_param": device}}
    if stage == 3:
        zero["reduce_scatter"] = True
    config = {{"zero_optimization": zero}}
    if bf16:
        config["bf16"] = {{"enabled": True}}
    else:
        config["fp16"] = {{"enabled": True}}
    if dtype is not None:
        config["zero_optimization"]["sub_group_size"] = 1
    return config

parser = argparse.ArgumentParser()
parser.add_argument("--stage", type=int, default=3)
args = parser.parse_args()
{call}
"""
MADE_CONFIG = {
    "zero_optimization": {
        "stage": 3,
        "zero_hpz_partition_size": 8,
        "offload_param": {"device": "none"},
        "reduce_scatter": True,
    },
    "bf16": {"enabled": True},
}


@pytest.mark.parametrize(
    "call",
    [
        "config = ds_config(False, stage=args.stage, zpg=8)",
        "def main():\n    a = ds_config(False, 3)\n    a['zero_optimization']['zero_hpz_partition_size'] = 8\nmain()",
        "class A:\n    def set(self):\n        self.config = ds_config(False, 3, zpg=8)\n    def get(self): ...",
        "config = ds_config(False, 3, True, zpg=8)\nother = ds_config(False, stage=3, zpg=8)",
    ],
)
def test_a_function_that_makes_the_configuration_is_followed(folder: Path, call: str) -> None:
    assert read(folder, "train.py", MADE.format(call=call)).deepspeed == MADE_CONFIG


@pytest.mark.parametrize(
    "call",
    ["config = ds_config(False, pick(), zpg=8)", "a = ds_config(True, 3)\nb = ds_config(True, 3, zpg=8)", ""],
)
def test_a_function_that_is_called_in_several_ways_says_nothing(folder: Path, call: str) -> None:
    with pytest.raises(HarnessError, match="works out zero_optimization"):
        read(folder, "train.py", MADE.format(call=call))


def test_keys_that_a_script_sets_on_a_condition_are_worked_out(folder: Path) -> None:
    asked = "if asked():\n    config['bf16'] = {'enabled': True}\n"
    found = read(folder, "train.py", f"config = {HPZ}\n{asked}config.update({{'steps_per_print': 1}})\n")
    assert found.unread == {"bf16"} and (found.deepspeed or {})["steps_per_print"] == 1
    flag = "parser.add_argument('--half', action='store_true')\n"
    script = f"{flag}config = {HPZ}\n{asked.replace('asked()', 'args.half')}"
    assert read(folder, "train.py", script).deepspeed == HPZ
    (folder / "run.sh").write_text("#!/bin/bash\ndeepspeed train.py --half\n")
    assert read_configuration(folder / "run.sh").deepspeed == {**HPZ, "bf16": {"enabled": True}}
