"""Module 06: KV-aware routing: prefix hits, the router's choice, and its truth against what workers reused."""
