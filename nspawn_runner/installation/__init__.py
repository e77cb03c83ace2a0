"""What a host gets besides the program: units, manual pages, completion, and a section in config.toml."""
