"""Asks a pytest of its own to run a marked test, for a session whose own process has another device or none."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from harness.suite.execution import read_report
from harness.suite.item import failure
from harness.system.child import Child
from harness.system.errors import RunFailed


def ask(item: pytest.Item) -> list[pytest.TestReport]:
    """The reports of a marked test, run in the session's server; the first one starts it."""
    try:
        answer = _server(item.session).ask({"test": item.nodeid})
    except RunFailed as error:
        return [failure(item, f"hpz_streams: {error}")]
    if "problem" in answer:
        return [failure(item, f"hpz_streams: {answer['problem']}")]
    return [read_report(item.config, content) for content in answer["reports"]]


def _server(session: pytest.Session) -> Child:
    """A pytest with the switch that collects the files of all marked tests; ini file and -p options are the same."""
    config: Any = session.config
    if (server := getattr(config, "_hpz_streams_server", None)) is not None:
        return server  # type: ignore[no-any-return]
    marked = {str(item.path) for item in session.items if item.get_closest_marker("hpz_streams")}
    plugins = [word for name in config.option.plugins for word in ("-p", name)]
    alone = ["-n0"] if config.pluginmanager.hasplugin("xdist") else []
    ini = ["-c", str(config.inipath)] if config.inipath else []
    timeout = str(config.getoption("hpz_streams_timeout"))
    command = [
        sys.executable,
        "-P",
        "-m",
        "pytest",
        *ini,
        "--rootdir",
        str(config.rootpath),
        *plugins,
        *alone,
    ]
    command += ["-p", "harness.suite.served", "-p", "no:cacheprovider", "-q", "-o", "addopts="]
    command += ["--hpz-streams", "--hpz-streams-timeout", timeout, *sorted(marked)]
    errors = Path(tempfile.mkdtemp(prefix="hpz-streams-")) / "server.txt"
    paths = os.pathsep.join(path for path in sys.path if path)
    title = "the process that runs marked tests"
    config._hpz_streams_server = Child(title, command, errors, {"PYTHONPATH": paths})
    return config._hpz_streams_server  # type: ignore[no-any-return]
