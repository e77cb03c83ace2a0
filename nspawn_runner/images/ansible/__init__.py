"""Playbooks and the containers of Ansible's connection plugin."""
