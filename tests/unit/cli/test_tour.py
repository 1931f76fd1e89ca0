"""The notebook runs from its first cell to its last on any results folder."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from harness.system.places import REPOSITORY
from tests.synthetic import write_study

pytestmark = [
    pytest.mark.usefixtures("made_up_patches"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # raised inside jupyter_client and zmq
]


@pytest.mark.slow
def test_the_tour_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_study(tmp_path)
    monkeypatch.setenv("HPZ_RESULTS", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    notebook = nbformat.read(REPOSITORY / "analysis" / "tour.ipynb", as_version=4)
    client = NotebookClient(
        notebook, timeout=120, resources={"metadata": {"path": str(REPOSITORY / "analysis")}}
    )
    client.execute()
    assert all(cell.get("execution_count") for cell in notebook.cells if cell.cell_type == "code")


def test_the_tour_is_committed_without_output() -> None:
    notebook = nbformat.read(REPOSITORY / "analysis" / "tour.ipynb", as_version=4)
    assert all(not cell.outputs for cell in notebook.cells if cell.cell_type == "code")
