# bash completion for kvcalc. Load it with: source <(kvcalc completion bash)
_kvcalc() {
    local cur="${COMP_WORDS[COMP_CWORD]}" part glue="" full="" cut flags="" value i
    local -a words=()
    # bash splits at ':' and '='; kvcalc reads h100-80gb:8 and --format=json as one word.
    for ((i = 1; i <= COMP_CWORD; i++)); do
        part="${COMP_WORDS[i]}"
        if ((${#words[@]})) && [[ -n $glue || $part == [:=]* ]]; then
            words[${#words[@]} - 1]+="$part"
        else
            words+=("$part")
        fi
        if [[ $part == *[:=] ]]; then glue=1; else glue=""; fi
    done
    full="${words[${#words[@]} - 1]}"
    case "$cur" in
        : | =) cut="$full" ;;
        *) cut="${full%"$cur"}" ;;
    esac
    COMPREPLY=()
    while IFS=$'\t' read -r value _; do
        if [[ -z $flags ]]; then
            flags="$value"
        else
            COMPREPLY+=("${value#"$cut"}")
        fi
    done < <("${COMP_WORDS[0]}" __complete "${words[@]}" 2>/dev/null)
    if type compopt &>/dev/null; then
        [[ $flags == *nospace* ]] && compopt -o nospace 2>/dev/null
        [[ $flags == *files* ]] && compopt -o default 2>/dev/null
        [[ $flags == *dirs* ]] && compopt -o dirnames 2>/dev/null
    elif ((${#COMPREPLY[@]} == 0)) && [[ $flags == *files* || $flags == *dirs* ]]; then
        while IFS= read -r value; do COMPREPLY+=("$value"); done < <(compgen -f -- "$cur")
    fi
    return 0
}
complete -F _kvcalc kvcalc
