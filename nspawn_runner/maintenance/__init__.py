"""Create images from playbooks and keep them up to date."""
