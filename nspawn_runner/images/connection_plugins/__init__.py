"""The folder where Ansible finds the connection `nspawn` (ANSIBLE_CONNECTION_PLUGINS)."""

from __future__ import annotations

import os

FOLDER = os.path.dirname(os.path.realpath(__file__))
