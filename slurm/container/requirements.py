"""What the project needs where it trains, as pip's requirements: read from the pyproject.toml in the working folder."""

import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
print(*project["dependencies"], *project["optional-dependencies"]["train"], sep="\n")
