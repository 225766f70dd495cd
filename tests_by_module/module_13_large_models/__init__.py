"""Module 13: does a large model fit, is its launch right, and what does it answer when it is spread over nodes."""
