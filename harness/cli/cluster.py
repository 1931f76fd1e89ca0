"""`hpz cluster`: a real SLURM on this machine, for development, demonstrations and tests."""

from __future__ import annotations

import json
import os
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from harness.cli.options import JsonOption
from harness.cluster.cluster import DEFAULT_NAME, Cluster, clusters
from harness.cluster.spec import Spec

app = typer.Typer(
    help="A real SLURM on this machine, its nodes linked at a bandwidth of choice.", no_args_is_help=True
)

Name = Annotated[str, typer.Option(help="Clusters of different names live side by side.")]
Link = Annotated[str, typer.Option(help="Rate of each node's data link: 50mbit, 200mbit, 1gbit, unlimited.")]


@app.command()
def up(
    nodes: Annotated[int, typer.Option(help="Nodes, each with an address of its own.")] = 2,
    link: Link = "unlimited",
    cpus: Annotated[int, typer.Option(help="CPUs that each node offers.")] = 4,
    gpus: Annotated[int, typer.Option(help="Fake GPUs that each node offers.")] = 0,
    name: Name = DEFAULT_NAME,
) -> None:
    """Start a cluster. Example: hpz cluster up --nodes 2 --link 200mbit"""
    cluster = Cluster.up(Spec(nodes=nodes, cpus=cpus, gpus=gpus, link=_rate(link)), name)
    print(
        f"Cluster {name!r} is up: {', '.join(cluster.spec.node_names)}, link {link}. "
        f"Try: hpz cluster shell --name {name} -- sinfo"
    )


@app.command()
def down(name: Name = DEFAULT_NAME) -> None:
    """End a cluster with every job in it. Example: hpz cluster down"""
    print(f"Cluster {name!r} is down." if Cluster.end(name) else f"Cluster {name!r} was not up.")


@app.command(context_settings={"ignore_unknown_options": True})
def shell(
    command: Annotated[list[str] | None, typer.Argument(help="A command; without one, your shell.")] = None,
    name: Name = DEFAULT_NAME,
    node: Annotated[str | None, typer.Option(help="Run it on this node instead of beside slurmctld.")] = None,
) -> None:
    """Run a command where SLURM's clients work. Example: hpz cluster shell -- squeue"""
    words = Cluster.find(name).prefix(node) + (command or [os.environ.get("SHELL", "/bin/sh")])
    os.execvp(words[0], words)


@app.command()
def status(as_json: JsonOption = False) -> None:
    """Show the clusters that are up, their nodes and what went over their links."""
    rows = [row for cluster in clusters() for row in _rows(cluster)]
    if as_json:
        print(json.dumps(rows))
        return
    table = Table(title=None if rows else "no cluster is up; start one with: hpz cluster up")
    for column in ("cluster", "node", "state", "address", "link", "bytes sent"):
        table.add_column(column)
    for row in rows:
        table.add_row(*(f"{value:,}" if isinstance(value, int) else str(value) for value in row.values()))
    Console().print(table)


def _rows(cluster: Cluster) -> list[dict[str, str | int]]:
    states = cluster.states()
    return [
        {
            "cluster": cluster.name,
            "node": node.name,
            "state": states.get(node.name, "unknown"),
            "address": node.address,
            "link": cluster.spec.link or "unlimited",
            "bytes_sent": cluster.wire_bytes(node.name),
        }
        for node in cluster.nodes
    ]


@app.command()
def link(
    rate: Annotated[str, typer.Argument(help="50mbit, 200mbit, 1gbit, unlimited.")], name: Name = DEFAULT_NAME
) -> None:
    """Change the rate of the data links while jobs run. Example: hpz cluster link 50mbit"""
    cluster = Cluster.find(name).set_link(_rate(rate))
    print(f"Cluster {name!r}: link {cluster.spec.link or 'unlimited'}.")


def _rate(link: str) -> str | None:
    return None if link == "unlimited" else link
