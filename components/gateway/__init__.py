"""The gateway: nginx in front of LiteLLM."""
