"""What the reaper and its supervisor both go by."""

from __future__ import annotations

import signal

GROUPS_FD_VARIABLE = "HOSTD_REAPER_GROUPS_FD"
CONFIG_VARIABLE = "HOSTD_SUPERVISOR_CONFIG"
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
DOOR, LOCK = "members.ipc", "hostd.lock"
