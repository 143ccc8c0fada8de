"""The spec: frozen models, unknown keys refused. One module a domain; `stack.StackSpec` holds them all."""
