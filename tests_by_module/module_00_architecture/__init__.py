"""Module 00: every component of the picture is there, and speaks to the ones it should."""
