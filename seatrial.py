"""The `seatrial` command: joins the sub-commands, imports what each needs only when it is asked for."""

import typer

from loadtests import backfill_cli, scenarios_cli
from loadtests import cli as loadtests_cli
from loadtests.bench import cli as bench_cli
from server import cli as server_cli
from server import cli_access
from simulator import cli as simulator_cli
from simulator import merge_cli, record_cli

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="How many agents can your server take before plain Postgres gives in? Run it, load it, judge it.",
)
app.command("run")(loadtests_cli.run)
app.command("scenarios")(scenarios_cli.scenarios)
app.command("new")(scenarios_cli.new)
app.command("report")(loadtests_cli.report)
app.command("verify")(loadtests_cli.verify)
app.command("backfill")(backfill_cli.backfill)
app.command("demo")(loadtests_cli.demo)
app.command("serve")(server_cli.serve)
app.command("record")(record_cli.record)
app.command("simulate")(simulator_cli.simulate)
app.command("merge-reports")(merge_cli.merge_reports)
app.add_typer(bench_cli.app, name="bench")
app.add_typer(cli_access.token_app, name="token")
app.add_typer(cli_access.quota_app, name="quota")
app.add_typer(server_cli.db_app, name="db")


def main() -> None:
    """Entry point of the console script and of `python -m seatrial`."""
    app()


if __name__ == "__main__":
    main()
