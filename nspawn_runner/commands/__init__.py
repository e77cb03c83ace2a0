"""One module per verb, with its steps in order."""
