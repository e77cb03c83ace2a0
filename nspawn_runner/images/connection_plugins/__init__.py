"""The folder that Ansible looks for its connection `nspawn` in (ANSIBLE_CONNECTION_PLUGINS)."""

from __future__ import annotations

import os

FOLDER = os.path.dirname(os.path.realpath(__file__))
