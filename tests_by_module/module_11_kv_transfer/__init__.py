"""Module 11: NIXL moves KV blocks, whole, fast enough, and by the transport that is declared."""
