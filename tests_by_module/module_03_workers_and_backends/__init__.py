"""Module 03: every declared engine keeps the same contract, side by side and against transformers."""
