"""Random pictures in the current folder, as public scripts read them: a part of tests/script_data.py."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path

SETS = """import importlib.util
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def cifar(module):
    module.CIFAR10.base_folder = os.path.join(HERE, "cifar")
    module.check_integrity = lambda path, md5=None: os.path.isfile(path)


def mnist(module):
    module.MNIST.raw_folder = os.path.join(HERE, "mnist")


class Sets:
    changes = {"torchvision.datasets.cifar": cifar, "torchvision.datasets.mnist": mnist}

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        change = cls.changes.pop(name, None)
        if change is None:
            return None
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module
        spec.loader.exec_module = lambda module: (load(module), change(module))
        return spec


sys.meta_path.insert(0, Sets)
"""


def torchvision_sets() -> None:
    """Random pictures as the files of CIFAR-10 and MNIST, and what lets torchvision take them wherever it would look.

    It looks in a folder that some scripts fix, and compares the checksums of CIFAR-10's files.
    """
    import numpy as np

    chance = np.random.default_rng(0)
    for folder in ("sets/cifar", "sets/mnist"):
        Path(folder).mkdir(parents=True, exist_ok=True)
    Path("sets/sitecustomize.py").write_text(SETS)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        batch = {
            "data": chance.integers(0, 256, (40, 3072), dtype=np.uint8),
            "labels": chance.integers(0, 10, 40).tolist(),
        }
        Path("sets/cifar", name).write_bytes(pickle.dumps(batch))
    Path("sets/cifar/batches.meta").write_bytes(pickle.dumps({"label_names": [str(i) for i in range(10)]}))
    for name in ("train", "t10k"):
        images = chance.integers(0, 256, (400, 28, 28), dtype=np.uint8)
        labels = chance.integers(0, 10, 400, dtype=np.uint8)
        for kind, values in (("images-idx3", images), ("labels-idx1", labels)):
            head = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
            Path(f"sets/mnist/{name}-{kind}-ubyte").write_bytes(head + values.tobytes())


def pictures() -> None:
    """Of two kinds, in folders as torchvision reads them."""
    import numpy as np
    from PIL import Image

    chance = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("cat", "dog"):
            folder = Path("pictures", split, kind)
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(12):
                pixels = chance.integers(0, 256, (48, 48, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
