"""The folder that Ansible looks for its callback `nspawn_runner_report` in (ANSIBLE_CALLBACK_PLUGINS)."""

from __future__ import annotations

import os

FOLDER = os.path.dirname(os.path.realpath(__file__))
