"""What is served: adapter files kept durably, their versions, and which one is active."""
