# Completion of nspawn-runner in fish: the program itself knows its words.
function __nspawn_runner_words
    set --local typed (commandline --current-process --tokenize --cut-at-cursor)
    set --local current (commandline --current-token --cut-at-cursor | string unescape)
    command $typed[1] complete $typed[2..-1] "$current" 2>/dev/null
end
complete --command nspawn-runner --no-files --arguments '(__nspawn_runner_words)'
complete --command nspawn-runner --condition 'test -z "$(__nspawn_runner_words)"' --force-files
