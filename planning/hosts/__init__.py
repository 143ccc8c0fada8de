"""How bare machines become GPU hosts: package plans, scripts, the compatibility gate, drift."""
