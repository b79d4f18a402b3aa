"""Stats: events of every service, in ClickHouse, each exactly once.

gaps        which numbers are here (pure)
collector   what waits, what to ask for, what to confirm (pure)
journal     the plan in flight and the progress, on disk
rows        a plan as Arrow tables (pure)
schema      numbered SQL
clickhouse  chDB or a server
service     the loop that joins them
stats       the process
audit       the proof: spools against rows (pure)
"""
