"""Module 01: a runtime installed as pinned, and the first completion that it serves."""
