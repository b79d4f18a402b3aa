"""Which queries of others the SQL service runs: one statement, that reads."""

import pytest
from zmqgame.stats.clickhouse import SqlRefused, check_query


@pytest.mark.parametrize(
    "query",
    [
        "select 1",
        "select 1;",
        "select 1 ; ;\n",
        "select 1; -- the end",
        "select 1; /* the; end */",
        "select ';', \"a;b\", `c;d` from t",
        "select 'it''s; fine', '\\'; fine'",
        "-- first; comment\nselect 1 -- second; comment",
        "/* ; */ with 1 as x select x",
        "select $$;$$, $a$ ; $$ $a$",
        "select 1 # it's; fine",
        "(select 1) union all (select 2)",
    ],
)
def test_one_statement_is_run(query):
    check_query(query, "JSON")


@pytest.mark.parametrize(
    "query",
    [
        "select 1; select 2",
        "select 1;select 2;",
        "select ';'; select 2",
        "select 1; /* x */ drop table sessions",
        "select 1; -- x\nselect 2",
        "select 1;; select 2",
        "select 1 /* ; */; select 2",
        "select 1 # '\n; select 2 -- '",
        "select $$ ' $$; select 2 -- '",
    ],
)
def test_several_statements_are_refused(query):
    with pytest.raises(SqlRefused, match="only one statement") as caught:
        check_query(query, "JSON")
    assert caught.value.kind == "query"
