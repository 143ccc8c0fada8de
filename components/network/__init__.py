"""How the stack is reached from outside. Importing it costs seconds: only stacks with an ingress do."""
