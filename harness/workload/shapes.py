"""The program that knows shapes: `python -m harness.workload.shapes CONFIG.json|NAME` prints one line of JSON.

For a file with a public configuration, every parameter that transformers makes of it; for a name on the Hub, the
configuration that lies there. A process of its own, as what reads studies and model files must start without torch.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from harness.study import Shapes
from harness.system.errors import HarnessError
from harness.workload.models import built_shapes, language_model, transformers_config

REFUSED = 2  # exit code: the last line on stderr is a sentence


def shapes_of(config: dict[str, Any]) -> Shapes:
    """Every parameter's name and shape, made on tensors without memory. Raises HarnessError."""
    import torch

    with torch.device("meta"):
        return built_shapes(language_model(transformers_config(config), torch.bfloat16))


def config_on_hub(name: str) -> dict[str, Any]:
    """The public configuration of a model on the Hub, or of one that was fetched before. Raises HarnessError."""
    from transformers import PretrainedConfig

    try:
        config, _ = PretrainedConfig.get_config_dict(name)
    except (OSError, ValueError) as error:
        first = (str(error).splitlines() or [""])[0].rstrip(". ")
        raise HarnessError(
            f"and the Hub did not give it ({first}); where there is no network, give a folder with its config.json"
        ) from error
    return dict(config)


def main() -> None:
    given = sys.argv[1]
    try:
        if given.endswith(".json"):
            print(json.dumps(shapes_of(json.loads(Path(given).read_text()))))
        else:
            print(json.dumps(config_on_hub(given)))
    except HarnessError as error:
        print(error, file=sys.stderr)
        sys.exit(REFUSED)


if __name__ == "__main__":
    main()
