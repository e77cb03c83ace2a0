"""A module per verb, reading as the story of that verb."""
