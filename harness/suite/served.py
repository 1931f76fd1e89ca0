"""Where marked tests run: `pytest … -p harness.suite.served` collects, then runs each test that it is asked for.

JSON lines: {"test": NODEID} in, {"reports": […]} or {"problem": SENTENCE} out.
"""

from __future__ import annotations

import pytest

from harness.suite.plugin import Wanted, wanted_of
from harness.system.parent import Parent

PARENT = Parent()  # before anything is printed


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool:
    from harness.suite.item import run_item

    items = {item.nodeid: item for item in session.items}
    hook, config = session.config.hook, session.config
    if (capture := config.pluginmanager.getplugin("capturemanager")) is not None:
        capture.suspend_global_capture(in_=True)  # standard input is the way to the parent
    while (commands := PARENT.commands()) is not None:
        for command in commands:
            item = items.get(command["test"])
            if item is None:
                PARENT.answer({"problem": "the process that runs marked tests does not collect this one"})
                continue
            reports = run_item(item, wanted_of(item) or Wanted())
            told = [hook.pytest_report_to_serializable(config=config, report=report) for report in reports]
            PARENT.answer({"reports": told})
    return True
