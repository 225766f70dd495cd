"""Module 10: disaggregated prefill and decode: exact, KV by the declared transport, compared with the baseline."""
