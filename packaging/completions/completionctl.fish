# fish completion for completionctl; commands and options are what --help says.

function __completionctl_commands
    completionctl help | sed -n '/^Commands:/,/^$/s/^  \([a-z]*\)  *\(.*\)/\1\t\2/p'
end

function __completionctl_options
    set -l words (commandline -opc)
    completionctl $words[2] --help 2>/dev/null |
        sed -nE 's/^  +(-h, )?(--[a-z-]+)(\[?[ =][A-Z]+\]?| [a-z]+(\|[a-z]+)+)?  +(.*)/\2\t\5/p'
end

# Those of the configuration; of globs only they are known. Nothing where no daemon is, and soon.
function __completionctl_models
    completionctl models --output text --timeout 500ms 2>/dev/null </dev/null |
        string match -v -r '[*?[\\\\]'
end

function __completionctl_formats
    set -l words (commandline -opc)
    printf 'text\njson\n'
    test "$words[2]" = models; and echo table
end

complete -c completionctl -f
complete -c completionctl -n 'test (count (commandline -opc)) = 1' -a '(__completionctl_commands)'
complete -c completionctl -n 'test (commandline -opc)[-1] = help' -a '(__completionctl_commands)'
complete -c completionctl -n '__fish_seen_subcommand_from create models status top' \
    -a '(__completionctl_options)'
complete -c completionctl -n '__fish_seen_subcommand_from create' -l model -x \
    -a '(__completionctl_models)'
complete -c completionctl -n '__fish_seen_subcommand_from create models' -l output -x \
    -a '(__completionctl_formats)'
complete -c completionctl -n '__fish_seen_subcommand_from create' -l jsonl -r -F
complete -c completionctl -n '__fish_seen_subcommand_from create' -l output-file -r -F
complete -c completionctl -n '__fish_seen_subcommand_from create models status top' -l socket -r -F
