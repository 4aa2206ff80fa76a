#compdef kvcalc
# zsh completion for kvcalc. Load it with: source <(kvcalc completion zsh), after compinit; or save it as _kvcalc in fpath.
_kvcalc() {
    local -a lines values shown suffix
    local line
    lines=("${(@f)$("${(Q)words[1]}" __complete "${(@Q)words[2,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null)}")
    local flags="$lines[1]"
    for line in "${(@)lines[2,-1]}"; do
        [[ -n $line ]] || continue
        values+=("${line%%$'\t'*}")
        if [[ $line == *$'\t'?* ]]; then
            shown+=("${line%%$'\t'*}  -- ${line#*$'\t'}")
        else
            shown+=("${line%%$'\t'*}")
        fi
    done
    [[ $flags == *nospace* ]] && suffix=(-S '')
    (($#values)) && compadd "${suffix[@]}" -l -d shown -a values
    [[ $flags == *files* ]] && _files
    [[ $flags == *dirs* ]] && _files -/
    return 0
}
if [[ $funcstack[1] == _kvcalc ]]; then
    _kvcalc "$@"
else
    compdef _kvcalc kvcalc
fi
