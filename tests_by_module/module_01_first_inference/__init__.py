"""Module 01: the runtime is installed as pinned; cold start to the first token; a first completion, counted right."""
