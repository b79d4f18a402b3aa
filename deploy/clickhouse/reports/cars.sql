-- Which car wins, and is it fast or just driven well: races, wins, times and trap speed of each car.
SELECT
    car,
    count() AS starts,
    countIf(place = 1) AS wins,
    round(100 * wins / starts, 1) AS win_percent,
    countIf(place = 0) AS did_not_finish,
    round(minIf(time_ms, place > 0) / 1000, 3) AS best_s,
    round(quantileIf(0.5)(time_ms, place > 0) / 1000, 3) AS median_s,
    round(maxIf(trap_kmh, place > 0), 1) AS top_trap_kmh
FROM finishes
GROUP BY car
ORDER BY win_percent DESC, best_s, car
