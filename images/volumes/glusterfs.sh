# shellcheck shell=bash disable=SC2154  # sourced by laila-volume-node, which sets the capitals
# A replicated GlusterFS volume: the first three nodes hold a brick each, all nodes mount it by the FUSE client.
#
# The strict kind turns off every cache on both sides of the FUSE client, so that what one node has written and closed
# is what the next one reads, and the eager lock, which keeps a written file from the other nodes for up to a second
# (three nodes that replace one file: 3 times a second each with it, 24 without). The default kind is how GlusterFS
# comes: its locks exclude, its caches answer from the past. Both refuse a minority: with fewer than two of three bricks
# nothing is read or written.
NAME=shared
SERVERS=("${NODES[@]:0:3}")
CACHES=(quick-read io-cache write-behind open-behind stat-prefetch read-ahead readdir-ahead flush-behind)

# One that finds its daemon busy or gone must not take all the time there is.
gluster() { timeout 20 gluster --mode=script "$@"; }

mount_volume() {
  if holds_a_brick; then
    serve_brick || die "no GlusterFS here; glusterd says: $(last_words glusterd.log)"
  fi
  mount_client || die "GlusterFS cannot be mounted; its client says: $(last_words client.log)"
  if holds_a_brick; then wait_for_the_others; fi
}

holds_a_brick() { [[ " ${SERVERS[*]} " == *" $VOLUME_NODE "* ]]; }

serve_brick() {
  mkdir -p "$STORAGE"/glusterd "$STORAGE"/brick
  rm -rf /run/gluster # sockets and pid files of a life before
  glusterd --pid-file /run/glusterd.pid --log-file /var/log/glusterfs/glusterd.log --log-level WARNING || return
  until_done "glusterd to answer" gluster peer status || return
  if serves && ! started 2>/dev/null; then create || return; fi
  until_done "$FIRST to start the volume" started || return
  # The others know the first one by the address it came from; by its name they find it again at another address.
  serves || until_done "$FIRST to be known by its name" gluster peer probe "$FIRST"
}

started() { gluster volume info "$NAME" | grep -qx 'Status: Started'; }

# Every command is asked again: servers that have just met still tell each other of the third one, and refuse meanwhile.
create() {
  local server cache bricks=() options=(network.ping-timeout 5 cluster.quorum-type auto)
  for server in "${SERVERS[@]}"; do
    bricks+=("$server:$STORAGE/brick")
    [[ $server == "$VOLUME_NODE" ]] || until_done "$server to join" gluster peer probe "$server" || return
  done
  if [[ $VOLUME_KIND == glusterfs ]]; then
    for cache in "${CACHES[@]}"; do options+=("performance.$cache" off); done
    options+=(cluster.eager-lock off)
  fi
  until_done "all servers to be one cluster" clustered || return
  until_done "the volume to be made" made "${bricks[@]}" || return
  until_done "the volume to have its options" gluster volume set "$NAME" "${options[@]}" || return
  until_done "the volume to start" begun
}

clustered() { [[ $(gluster peer status | grep -cx 'State: Peer in Cluster (Connected)') == $((${#SERVERS[@]} - 1)) ]]; }
# force: a brick in a container's volume is no disk of its own, which it would rather have.
made() { gluster volume info "$NAME" || gluster volume create "$NAME" replica "${#SERVERS[@]}" "$@" force; }
begun() { started || gluster volume start "$NAME"; }

mount_client() {
  local options=(--volfile-id "$NAME" --log-file /var/log/glusterfs/client.log --log-level WARNING) server
  for server in "${SERVERS[@]}"; do options+=(--volfile-server "$server"); done
  [[ $VOLUME_KIND == glusterfs-default ]] ||
    options+=(--direct-io-mode=enable --fopen-keep-cache=no --attribute-timeout=0 --entry-timeout=0 --negative-timeout=0)
  until_done "a server to know the volume" mounted "${options[@]}" || return
  until_done "enough bricks to answer" timeout 10 stat "$VOLUME_AT" || return
  until_done "the volume to be writable" owned
}

mounted() { timeout 10 mountpoint -q "$VOLUME_AT" || glusterfs "$@" "$VOLUME_AT"; }

# Any node may be the first that mounts it.
owned() {
  [[ $(timeout 10 stat -c %u:%g:%a "$VOLUME_AT") == "$OWNER:770" ]] ||
    { timeout 10 chown "$OWNER" "$VOLUME_AT" && timeout 10 chmod 0770 "$VOLUME_AT"; }
}

# The others' clients look for a brick that was away every three seconds, and until they have found it and it has caught
# up, the loss of another one makes a minority. So a node says that it is there only then; without them it goes on too.
wait_for_the_others() {
  VOLUME_WAIT=15 until_done "the other nodes to find this brick again" found || return 0
  VOLUME_WAIT=15 until_done "this brick to catch up" healed || return 0
}

found() {
  local connected clients
  connected=$(gluster pool list | grep -cE '\sConnected\s*$')
  clients=$(gluster volume status "$NAME" clients | sed -n "/^Brick : $VOLUME_NODE:/,/^Brick :/p" |
    grep -oE '^[0-9.]+:[0-9]+ ' | cut -d : -f 1 | sort -u | wc -l)
  ((clients >= connected))
}

healed() {
  local entries # of each brick that answers: a number
  entries=$(gluster volume heal "$NAME" info | grep -E '^Number of entries: [0-9]') && ! grep -q '[1-9]' <<<"$entries"
}

last_words() { tail -n 3 "/var/log/glusterfs/$1" 2>/dev/null || echo nothing; }
