"""Module 05: NATS: what Dynamo publishes, its loss and return under load, KV events in JetStream and over ZMQ."""
