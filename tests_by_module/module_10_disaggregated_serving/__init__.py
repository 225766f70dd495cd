"""Module 10: prefill and decode apart, exact and compared with the baseline."""
