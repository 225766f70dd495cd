"""Module 02: the frontend's endpoints, streams, parameters, errors, limits, cancellation, counters and health."""
