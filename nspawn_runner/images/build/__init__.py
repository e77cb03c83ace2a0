"""How a tree is built from packages."""
