"""Playbooks, and the containers that Ansible's connection uses."""
