# shellcheck shell=bash disable=SC2154  # sourced by laila-volume-node, which sets the capitals
# sshfs: the first node serves a directory of its own volume by sshd, all nodes mount it, the first one from itself.
#
# One key, made for the run and mounted as VOLUME_KEY, is the server's and the clients' in one: who has it is let in, and
# the server is known by it.
PORT=2222
KEY=${VOLUME_KEY:-/run/volume/key}
OWN=/run/laila-volume

mount_volume() {
  [[ -r $KEY ]] || die "there is no key $KEY"
  mkdir -p "$OWN"
  local public
  public=$(ssh-keygen -y -f "$KEY") || die "$KEY is no key that ssh reads"
  echo "$public" >"$OWN/authorized_keys"
  echo "[$FIRST]:$PORT $public" >"$OWN/known_hosts"
  if serves; then serve_directory; fi
  # As a person would mount it: its default caches are part of what is judged.
  local options="port=$PORT,IdentityFile=$KEY,UserKnownHostsFile=$OWN/known_hosts,StrictHostKeyChecking=yes,BatchMode=yes"
  options+=",ConnectTimeout=5,ServerAliveInterval=5,ServerAliveCountMax=2,reconnect,allow_other,default_permissions"
  until_done "$FIRST to serve its directory" sshfs -o "$options" "laila@$FIRST:$STORAGE/files" "$VOLUME_AT" ||
    die "the last refusal: $(sshfs -o "$options" "laila@$FIRST:$STORAGE/files" "$VOLUME_AT" 2>&1 | tail -n 3)"
}

serve_directory() {
  install -d -o "${OWNER%:*}" -g "${OWNER#*:}" -m 0770 "$STORAGE/files"
  install -d -m 0755 /run/sshd
  /usr/sbin/sshd -f /dev/null -h "$KEY" -p "$PORT" -E /var/log/sshd.log \
    -o "AuthorizedKeysFile=$OWN/authorized_keys" -o AllowUsers=laila -o PasswordAuthentication=no \
    -o KbdInteractiveAuthentication=no -o UsePAM=no -o 'Subsystem=sftp internal-sftp' -o ForceCommand=internal-sftp \
    -o AllowTcpForwarding=no -o X11Forwarding=no -o PidFile=/run/sshd.pid || die "sshd does not start"
}
