"""The wheel carries what its packages read from a checkout, in `harness/_shipped`: see harness/system/places.py."""

import hashlib
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
FOLDERS = ("patches", "experiments", "slurm")
FILES = (
    "pyproject.toml",
    "constraints.txt",
    "LICENSE",
    "results/paper/claims.yaml",
    "results/paper/form.yaml",
    # What simulated time was held against: its errors stand beside every number.
    *(f"results/reference/slow-link/{name}" for name in ("study.yaml", "runs.parquet", "calibration.json")),
)


class WithShipped(build_py):
    """Copies what a checkout has beside the packages, and hashes all of it."""

    def run(self):
        super().run()
        if self.editable_mode:
            return  # the checkout itself is used
        target = Path(self.build_lib) / "harness" / "_shipped"
        shutil.rmtree(target, ignore_errors=True)
        for folder in FOLDERS:
            shutil.copytree(HERE / folder, target / folder, ignore=shutil.ignore_patterns("__pycache__"))
        for name in FILES:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(HERE / name, target / name)
        steps = "results/reference/slow-link/steps.parquet"
        (shutil.copytree if (HERE / steps).is_dir() else shutil.copy)(HERE / steps, target / steps)
        digest = hashlib.sha256()
        for file in sorted(path for path in Path(self.build_lib).rglob("*") if path.is_file()):
            digest.update(str(file.relative_to(self.build_lib)).encode() + file.read_bytes())
        (target / "content.sha256").write_text(digest.hexdigest() + "\n")


setup(cmdclass={"build_py": WithShipped})
