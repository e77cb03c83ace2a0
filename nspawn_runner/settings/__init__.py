"""Settings, policy, profiles and limits: every fact about them, once."""
