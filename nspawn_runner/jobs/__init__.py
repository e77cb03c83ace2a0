"""One job's life across the rooms below: image, permission, limits, caches, machine, scripts, log, results."""
