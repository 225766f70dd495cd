"""Module 09: two vLLM servers without Dynamo: exact, evenly loaded, measured and kept as the baseline."""
