
# Names of tasks, from the graph of the command line or of the current directory.
_netbuild_with_tasks() {
    local line=${COMP_LINE:0:COMP_POINT} cur words word graph=() names name before i
    read -ra words <<<"$line"
    cur=${line##*[[:space:]]}
    [[ -n $cur ]] && unset 'words[-1]'
    case "${words[1]-} ${words[2]-}" in
        "run "* | "why "* | "log "* | "pin "* | "unpin "*) i=2 ;;
        "graph show" | "graph suggest" | "graph export") i=3 ;;
        *) i=0 ;;
    esac
    case ${words[-1]} in
        # Each of them takes a value.
        --graph | --workspace | --jobs | -j | --link | --summary | --json-events | --trace | --data-dir | \
            --config | --backend | --last | --format) i=0 ;;
    esac
    if [[ $i == 0 || $cur == -* ]]; then
        _netbuild "$@"
        return
    fi
    for ((; i < ${#words[@]}; i++)); do
        word=${words[i]}
        case $word in
            --graph | --workspace) graph+=("$word" "${words[i + 1]-}") ;;
            --graph=* | --workspace=*) graph+=("$word") ;;
        esac
    done
    mapfile -t names < <("${words[0]}" graph list --names "${graph[@]}" 2>/dev/null)
    # Bash takes a name with colons for several words, and the reply for the last of them.
    before=
    [[ $COMP_WORDBREAKS == *:* && $cur == *:* ]] && before=${cur%"${cur##*:}"}
    COMPREPLY=()
    for name in "${names[@]}"; do
        [[ $name == "$cur"* ]] && COMPREPLY+=("${name#"$before"}")
    done
}
complete -F _netbuild_with_tasks -o bashdefault -o default netbuild
