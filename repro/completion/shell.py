"""The shell code of the completion scripts: what bash and zsh share, and how each of them is told the candidates."""

FILES = "<files>"  # a candidate that stands for the names of files

# _repro_candidates COMMAND POSITION PREVIOUS CURRENT prints the candidates for the word CURRENT, one a line; POSITION
# counts the arguments before it. For key=... they are values.
FUNCTIONS = """\
# Completion of repro; `repro completion SHELL` prints it anew after an experiment, suite or table was added.
_repro_candidates() {{
  case $4 in [!-]*=*) _repro_values "${{4%%=*}}"; return ;; esac
  case $1 in
    '') printf '%s\\n' {top} ;;
{commands}
  esac
}}

_repro_keys() {{
  printf '%s\\n' {keys}
}}

_repro_values() {{
  case $1 in
{values}
  esac
}}

_repro_takes_value() {{
  case "$1 $2" in {value_flags}) return 0 ;; esac
  return 1
}}
"""

# bash cuts words at the = of COMP_WORDBREAKS: they are glued together first, and what stands before the = must not be
# in the answer. A space after a finished word is part of the answer, because key= must have none (bash 3.2 on macOS
# can't tell them apart in another way).
BASH = """
_repro() {
  local words=() glue='' word index
  for ((index = 1; index <= COMP_CWORD; index++)); do
    word=${COMP_WORDS[index]}
    if [[ ${#words[@]} -gt 0 && ( $word == =* || ( -n $glue && -n $word ) ) ]]; then
      words[${#words[@]} - 1]+=$word
    else
      words+=("$word")
    fi
    glue=''
    if [[ $word == = ]]; then glue=1; fi
  done
  local last=$((${#words[@]} - 1)) command='' previous='' position=0
  for ((index = 0; index < last; index++)); do
    word=${words[index]}
    if ((index == 0)); then command=$word
    elif [[ $word != -* ]] && ! _repro_takes_value "$command" "$previous"; then position=$((position + 1))
    fi
    previous=$word
  done
  local current=${words[last]} before='' candidate
  if [[ $current == [!-]*=* ]]; then
    before=${current%%=*}=
    current=${current#*=}
    if [[ $COMP_WORDBREAKS == *=* ]]; then before=''; fi
    if [[ $current == *,* ]]; then
      before+=${current%,*},
      current=${current##*,}
    fi
  fi
  COMPREPLY=()
  while IFS= read -r candidate; do
    if [[ $candidate == '<files>' ]]; then
      compopt -o filenames +o nospace 2>/dev/null
      while IFS= read -r candidate; do COMPREPLY+=("$before$candidate"); done < <(compgen -f -- "$current")
    elif [[ $candidate == "$current"* ]]; then
      if [[ $candidate != *= ]]; then candidate+=' '; fi
      COMPREPLY+=("$before$candidate")
    fi
  done < <(_repro_candidates "$command" "$position" "$previous" "${words[last]}")
}
complete -o nospace -F _repro repro
"""

ZSH = """
_repro() {
  local command='' previous='' word index
  integer position=0
  for ((index = 2; index < CURRENT; index++)); do
    word=${words[index]}
    if ((index == 2)); then command=$word
    elif [[ $word != -* ]] && ! _repro_takes_value "$command" "$previous"; then position+=1
    fi
    previous=$word
  done
  local -a candidates
  candidates=(${(f)"$(_repro_candidates "$command" "$position" "$previous" "$PREFIX")"})
  if [[ $PREFIX == [^-]*=* ]]; then
    compset -P '*='
    compset -P '*,'
  fi
  if (( ${candidates[(Ie)<files>]} )); then
    _files
  fi
  compadd -S '' -- ${(M)candidates:#*=}
  compadd -- ${${candidates:#*=}:#<files>}
}
if ! (( $+functions[compdef] )); then
  autoload -Uz compinit && compinit
fi
compdef _repro repro
"""
