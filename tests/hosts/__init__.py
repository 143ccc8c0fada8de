"""GPU hosts: machines to prepare, and what their preparation does to them."""
