"""Learning: the table of recipes, and the loop."""
