"""The folder where Ansible finds the callback `nspawn_runner_report` (ANSIBLE_CALLBACK_PLUGINS)."""

from __future__ import annotations

import os

FOLDER = os.path.dirname(os.path.realpath(__file__))
