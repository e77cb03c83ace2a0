"""Images from playbooks, over time."""
