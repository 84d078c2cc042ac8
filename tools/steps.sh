# shellcheck shell=bash
# Sourced by the other tools: one headline per step on the terminal, everything else in a log file.
#
# A newcomer sees what is being done and how long it took; who needs the details finds them in .build/logs/.
# When a step fails, the end of its log is shown, because nobody looks for a log before they know it exists.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
LOGS="$ROOT/.build/logs"

# All headlines go to stderr: stdout belongs to answers (an image name, pytest's summary).
say() { printf '%s\n' "$*" >&2; }

die() { # die MESSAGE [EXIT CODE]; 3 means: cannot be had on this machine, which callers may be prepared for
  if [[ ${2:-1} == 3 ]]; then say "not possible here: $1"; else say "error: $1"; fi
  exit "${2:-1}"
}

# step NAME HEADLINE COMMAND... : runs quietly, output in .build/logs/NAME.log.
step() {
  local name=$1 headline=$2 status=0 start=$SECONDS
  shift 2
  mkdir -p "$LOGS"
  printf '  %-52s ' "$headline" >&2
  "$@" >"$LOGS/$name.log" 2>&1 </dev/null || status=$?
  if ((status == 0)); then
    printf 'ok %4ds\n' "$((SECONDS - start))" >&2
    return 0
  fi
  printf 'FAILED after %ds (exit %d), the end of %s:\n' "$((SECONDS - start))" "$status" "$LOGS/$name.log" >&2
  tail -n 25 "$LOGS/$name.log" | sed 's/^/    | /' >&2
  return "$status"
}

is_root() { [[ $(id -u) == 0 ]]; }
is_debian() { [[ -r /etc/os-release ]] && grep -qxE 'ID=debian' /etc/os-release && command -v apt-get >/dev/null; }
