"""``scaler env``."""

import json
from dataclasses import asdict

import click

from scaler.cli.terminal import show
from scaler.errors import ClusterError


@click.command("env")
@click.option(
    "--address",
    metavar="A",
    help="Also look at the Ray cluster at this address: auto, host:port, or http(s)://host:port.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--markdown", is_flag=True, help="Print Markdown, to paste into a bug report.")
def command(address: str | None, as_json: bool, markdown: bool) -> None:
    """Show what this machine offers, and what is wrong with it.

    With --address, also a Ray cluster. Secrets are masked.

    Exit codes: 0: shown. 3: the cluster cannot be reached; this machine is still shown.
    """
    from scaler.cli.env_text import env_markdown, env_text
    from scaler.cluster.cluster_view import view_cluster
    from scaler.cluster.findings import findings_of
    from scaler.cluster.machine import this_machine

    machine, cluster, unreachable = this_machine(), None, None
    if address is not None:
        try:
            cluster = view_cluster(address)
        except ClusterError as error:
            unreachable = error
    findings = findings_of(machine, cluster)
    if as_json:
        values = {
            "schema_version": 1,
            "machine": asdict(machine),
            "cluster": None if cluster is None else asdict(cluster),
            "findings": [asdict(each) for each in findings],
        }
        click.echo(json.dumps(values, indent=1, allow_nan=False))
    elif markdown:
        click.echo(env_markdown(machine, cluster, findings, is_reached=unreachable is None))
    else:
        show(env_text(machine, cluster, findings, is_reached=unreachable is None))
    if unreachable is not None:
        raise unreachable
