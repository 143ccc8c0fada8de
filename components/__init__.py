"""HOW it is made: ComponentResources that turn a plan into resources and decide nothing."""
