-- How each game server does: races, aborted ones with the commonest reason, ticks beside what players had of them.
SELECT
    server,
    races.finished AS finished,
    races.aborted AS aborted,
    races.reason AS commonest_reason,
    logins.players AS players,
    ticks.ticks AS ticks,
    round(ticks.p99_us / 1000, 3) AS tick_p99_ms,
    ticks.late AS late_ticks
FROM
(
    SELECT
        server,
        uniqExactIf(match, event = 'finished') AS finished,
        uniqExactIf(match, event = 'aborted') AS aborted,
        topKIf(1)(reason, event = 'aborted')[1] AS reason
    FROM matches
    WHERE server != ''
    GROUP BY server
) AS races
LEFT JOIN
(
    SELECT server, uniqExact(player) AS players FROM sessions GROUP BY server
) AS logins USING (server)
LEFT JOIN
(
    SELECT server, sum(count) AS ticks, max(p99_us) AS p99_us, sum(late) AS late FROM ticks GROUP BY server
) AS ticks USING (server)
ORDER BY server
