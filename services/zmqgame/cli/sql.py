"""`sql`: a question to ClickHouse, through the stats service."""

from __future__ import annotations

import sys

import click
import orjson
from zmqgame_bus.errors import RequestFailed

from zmqgame.cli.context import EXIT_CODES, Context, json_option, print_json, print_table, run

SECONDS = click.FloatRange(0.1, 3600)

EPILOG = f"""\b
Examples:
  zmqgame-cli sql 'select player, car, time_ms from finishes order by time_ms limit 5'
  zmqgame-cli sql 'select car, count(), quantile(0.5)(time_ms) from finishes group by car'
  zmqgame-cli sql --format CSVWithNames 'select * from sessions' > sessions.csv
  zmqgame-cli sql < deploy/clickhouse/reports/cars.sql      what else there is: sql 'show tables'

{EXIT_CODES}"""


@click.command(epilog=EPILOG)
@click.argument("query", required=False)
@click.option(
    "--format",
    "output",
    metavar="NAME",
    help="Print it as ClickHouse formats it: CSVWithNames, Markdown, JSONEachRow ...",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0.1, 3600),
    default=30.0,
    show_default=True,
    metavar="S",
    help="How long to wait for the answer.",
)
@json_option
@click.pass_obj
def sql(context: Context, query: str | None, output: str | None, timeout_s: float, as_json: bool) -> None:
    """Run QUERY (or stdin) in ClickHouse."""
    text = query if query is not None else sys.stdin.read()
    if not text.strip():
        raise click.UsageError("no query: give it as an argument or on stdin")
    data = run(_ask(context, text, output or "JSONCompact", timeout_s))
    if output:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    answer = orjson.loads(data)
    names = [column["name"] for column in answer.get("meta", [])]
    if as_json:
        print_json([dict(zip(names, row, strict=True)) for row in answer.get("data", [])])
    else:
        print_table(answer.get("data", []), names)


async def _ask(context: Context, query: str, output: str, timeout_s: float) -> bytes:
    async with context.node() as node:
        try:
            reply = await node.request(
                "stats", {"op": "sql", "query": query, "format": output}, timeout_s=timeout_s
            )
        except RequestFailed as error:
            raise RequestFailed(str(error), hint="the tables: zmqgame-cli sql 'show tables'") from error
        data: bytes = reply.payload
        return data
