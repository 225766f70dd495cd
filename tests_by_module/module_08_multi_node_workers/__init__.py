"""Module 08: workers on several nodes."""
