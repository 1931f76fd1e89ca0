"""`python overlaid_rank.py SCRIPT`: runs a training script as a rank and prints which files of DeepSpeed it used."""

import json
import runpy
import sys

import deepspeed.ops

deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # it would be compiled now
script = sys.argv.pop(1)
runpy.run_path(script, run_name="__main__")
files = sorted(
    module.__file__
    for name, module in list(sys.modules.items())
    if name.partition(".")[0] == "deepspeed" and getattr(module, "__file__", None)
)
print("FILES " + json.dumps(files))
