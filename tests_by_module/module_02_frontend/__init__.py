"""Module 02: the HTTP frontend: OpenAI compatibility, streams, errors, limits, cancellation, counters, health."""
