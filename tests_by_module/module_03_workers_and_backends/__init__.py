"""Module 03: workers and backends."""
