# shellcheck shell=bash
# Sourced by the entry point: every wait is bounded, and says on what it waited.

# say goes to stderr, which is the container's log.
say() { printf 'laila-volume-node: %s\n' "$*" >&2; }

die() { say "$*"; exit 1; }

# until_done WHAT COMMAND... : asks until the command succeeds, VOLUME_WAIT seconds at most. A command that could hang
# is given its own `timeout` by the caller.
until_done() {
  local what=$1 start=$SECONDS
  shift
  until "$@" >/dev/null 2>&1; do
    ((SECONDS - start < VOLUME_WAIT)) || { say "waited $VOLUME_WAIT s for $what"; return 1; }
    sleep 0.1
  done
}
