"""The only code that knows a host's insides, and the start-up hook that reaches it."""
