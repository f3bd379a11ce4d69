"""The log: everything that changes the state, durable and in one order."""
