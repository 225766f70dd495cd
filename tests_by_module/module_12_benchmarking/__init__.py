"""Module 12: numbers that can be trusted, from a sweep of the load to several clients."""
