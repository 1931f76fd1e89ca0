"""Made-up secrets under the names that users' shells hold, and a search for them in all that was written."""

from __future__ import annotations

from pathlib import Path

# Put together here, so that no file holds what looks like a real one.
PLANTED = {
    "HF_TOKEN": "hf_" + "PlantedPlantedPlantedPlantedPlant",
    "WANDB_API_KEY": "0badc0de" * 5,
    "AWS_SECRET_ACCESS_KEY": "planted/Planted+planted/Planted+planted",
    "AWS_ACCESS_KEY_ID": "AKIA" + "PLANTEDPLANTED42",
    "GITHUB_TOKEN": "ghp_" + "planted" * 6,
    "DATABASE_PASSWORD": "correct-horse-battery",
    "CLIENT_SECRET": "planted-client-secret",
    "https_proxy": "http://planted-user:" + "planted-pass@127.0.0.1:3128",
}
WORDS = (*(value for name, value in PLANTED.items() if name != "https_proxy"), "planted-pass")


def leaks(folder: Path) -> list[str]:
    """Which file holds which planted secret, by the file's path and the first letters of the secret."""
    return [
        f"{file.relative_to(folder)}: {word[:12]}"
        for file in sorted(folder.rglob("*"))
        if file.is_file()
        for word in WORDS
        if word.encode() in file.read_bytes()
    ]
