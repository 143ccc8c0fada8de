"""GPU hosts: machines over SSH, and the steps that prepare them."""
