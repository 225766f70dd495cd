"""Module 06: prefix hits, the router's choice, and both against what workers reused and a round-robin control."""
