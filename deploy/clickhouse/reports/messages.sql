-- What became of messages and how long it took, by kind and outcome.
SELECT
    kind,
    outcome,
    count() AS messages,
    round(quantile(0.5)(latency_ms), 2) AS p50_ms,
    round(quantile(0.99)(latency_ms), 2) AS p99_ms,
    round(max(latency_ms), 2) AS max_ms
FROM messages
GROUP BY kind, outcome
ORDER BY kind, messages DESC, outcome
