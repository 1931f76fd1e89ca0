"""Can this machine hold a cluster? If not, what is missing, in words that end with what to type."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from harness.system.errors import HarnessError

PROGRAMS = {  # program → the Debian and Ubuntu package that holds it
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
    "munged": "munge",
    "ip": "iproute2",
    "tc": "iproute2",
    "nsenter": "util-linux",
    "unshare": "util-linux",
}
ADMIN_PATH = ("/usr/local/sbin", "/usr/sbin", "/sbin")
NAMESPACES = ["--net", "--mount", "--uts", "--pid", "--fork", "--mount-proc"]


def check_machine() -> bool:
    """Whether the cluster needs a user namespace (we are not root). Raises HarnessError where none can be held."""
    if sys.platform != "linux":
        raise HarnessError(
            "a cluster needs Linux's network namespaces; run it on a Linux machine or in a container"
        )
    packages = missing_packages()
    if packages:
        command = f"apt-get install --no-install-recommends {' '.join(packages)}"
        raise HarnessError(f"a cluster needs Debian packages that are not installed; as root: {command}")
    if os.geteuid() == 0:
        _try([], "root may not make namespaces here (a container?); run it with --privileged or on the host")
        return False
    _try(
        ["--user", "--map-root-user", "--map-auto"],
        "without root a cluster needs user namespaces, which this machine refuses; run it as root, or let the "
        "administrator allow them (sysctl kernel.unprivileged_userns_clone=1, package uidmap, a line in /etc/subuid)",
    )
    return True


def missing_packages() -> list[str]:
    """Debian packages to install; uidmap only where there is no root."""
    _extend_path()
    needed = PROGRAMS if os.geteuid() == 0 else {**PROGRAMS, "newuidmap": "uidmap"}
    return sorted({package for program, package in needed.items() if shutil.which(program) is None})


def _extend_path() -> None:
    """The daemons lie where a user's PATH often does not lead."""
    path = os.environ.get("PATH", "").split(os.pathsep)
    os.environ["PATH"] = os.pathsep.join([*path, *(folder for folder in ADMIN_PATH if folder not in path)])


def _try(user: list[str], refusal: str) -> None:
    done = subprocess.run(
        ["unshare", *user, *NAMESPACES, "true"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise HarnessError(f"{refusal} (unshare: {' '.join(done.stderr.split())})")
