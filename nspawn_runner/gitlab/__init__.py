"""What is specific to GitLab: the job, its exit statuses, the config answer, .gitlab-ci.yml."""
