"""Module 09: two vLLM servers without Dynamo, the fair baseline."""
