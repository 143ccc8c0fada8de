"""WHAT FOLLOWS from the spec: pure functions from `StackSpec` to plans. No Pulumi, no network."""
