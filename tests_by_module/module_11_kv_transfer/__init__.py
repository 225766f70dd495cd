"""Module 11: NIXL between plain processes: bytes intact, speed against the link, failures, and the real transport."""
