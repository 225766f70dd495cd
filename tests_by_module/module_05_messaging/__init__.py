"""Module 05: NATS and the messages that Dynamo sends through it."""
