""".gitlab-ci.yml, and how exec runs it."""
