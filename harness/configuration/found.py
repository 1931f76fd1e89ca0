"""What a configuration, a script or a command line says of a training, gathered from the files that name each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from harness.configuration.remarks import Remark

TRAINER_FACT = "transformers trainer"


@dataclass(frozen=True, kw_only=True)
class Found:
    """What is said; None or empty where it is not."""

    form: str = ""
    """What kind of source it is, for a person."""
    deepspeed: dict[str, Any] | None = None
    """DeepSpeed's keys, as they stand there."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Of Hugging Face's Trainer, by its names: they fill in what DeepSpeed's keys leave at "auto"."""
    world_size: int | None = None
    ranks_per_node: int | None = None
    release: str | None = None
    torch: str | None = None
    transformers: str | None = None
    model: str | None = None
    facts: frozenset[str] = frozenset()
    """What a script or a recipe shows of the training, in the words of `harness.configuration.facts`."""
    facts_read: bool = False
    """Whether a training script was read for facts."""
    unread: frozenset[str] = frozenset()
    """DeepSpeed's keys whose value a script works out."""
    remarks: tuple[Remark, ...] = ()

    def filled(self, other: Found) -> Found:
        """This, with what `other` says where this does not; facts and remarks of both."""
        own = {one.name: getattr(self, one.name) for one in fields(self)}
        missing = {name: getattr(other, name) for name, value in own.items() if value in (None, "")}
        return replace(
            self,
            **missing,
            arguments={**other.arguments, **self.arguments},
            facts=self.facts | other.facts,
            facts_read=self.facts_read or other.facts_read,
            unread=self.unread | other.unread,
            remarks=tuple(dict.fromkeys((*self.remarks, *other.remarks))),
        )

    def saying(self, *remarks: Remark) -> Found:
        return replace(self, remarks=(*self.remarks, *remarks))


def whole(value: Any) -> int | None:
    """A positive whole number, also as text; None for anything else."""
    try:
        number = int(str(value).strip())
    except ValueError:
        return None
    return number if number > 0 else None


def per_node(world: int | None, nodes: int | None) -> int | None:
    """Ranks on a node, where both are known and divide."""
    return world // nodes if world and nodes and world % nodes == 0 else None
