""".gitlab-ci.yml and what a local run makes of it."""
