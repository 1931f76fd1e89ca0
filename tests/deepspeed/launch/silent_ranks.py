"""A warm process whose ranks end at once, with code 0 and nothing done."""

from __future__ import annotations

from harness.system.parent import Parent

if __name__ == "__main__":
    launcher = Parent()
    launcher.answer({"ready": True})
    while (commands := launcher.commands()) is not None:
        for command in commands:
            for rank in range(command["world"]):
                launcher.answer({"run": command["start"], "rank": rank, "code": 0, "signal": None})
