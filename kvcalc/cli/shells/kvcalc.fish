# fish completion for kvcalc. Load it with: kvcalc completion fish | source
function __kvcalc_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l lines ($words[1] __complete $words[2..-1] "$current" 2>/dev/null)
    set -l flags $lines[1]
    test (count $lines) -gt 1; and printf '%s\n' $lines[2..-1]
    string match -q '*files*' -- $flags; and __fish_complete_path "$current"
    string match -q '*dirs*' -- $flags; and __fish_complete_directories "$current"
    return 0
end
complete -c kvcalc -f -a '(__kvcalc_complete)'
