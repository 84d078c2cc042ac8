# shellcheck shell=bash disable=SC2154  # sourced by laila-volume-node, which sets the capitals
# s3fs: the first node serves S3, all nodes mount its one bucket. Objects live in the server's memory: they are gone when
# the first node ends, which is no loss here, because nobody should trust this volume with anything.
PORT=9000
BUCKET=shared

mount_volume() {
  local complaints=/var/log/s3fs.log
  if serves; then
    # Debian's own Python, whichever else comes first in PATH: moto is a Debian package.
    (cd /tmp && exec /usr/bin/python3 -m moto.server -H 0.0.0.0 -p "$PORT" >/var/log/s3.log 2>&1) &
    until_done "the S3 server to make a bucket" ask PUT || die "it says: $(tail -n 3 /var/log/s3.log)"
  fi
  until_done "$FIRST to serve the bucket" ask HEAD || die "no S3 here"
  install -m 0600 /dev/null /run/s3-credentials
  echo lab:lab >/run/s3-credentials # the server asks nobody who he is
  # As a person would mount it: its default caches are part of what is judged.
  s3fs "$BUCKET" "$VOLUME_AT" -o "url=http://$FIRST:$PORT,use_path_request_style,endpoint=us-east-1" \
    -o "passwd_file=/run/s3-credentials,allow_other,uid=${OWNER%:*},gid=${OWNER#*:},umask=0007,logfile=$complaints" ||
    die "s3fs does not mount: $(tail -n 3 "$complaints" 2>/dev/null)"
  until_done "s3fs to mount" mountpoint "$VOLUME_AT" || die "s3fs says: $(tail -n 3 "$complaints" 2>/dev/null)"
}

# ask METHOD : of the bucket; succeeds when the server says 200.
ask() {
  local answer
  exec 3<>"/dev/tcp/$FIRST/$PORT" || return
  printf '%s /%s HTTP/1.0\r\nHost: %s\r\nContent-Length: 0\r\n\r\n' "$1" "$BUCKET" "$FIRST:$PORT" >&3
  read -r -t 5 answer <&3
  exec 3>&-
  [[ $answer == *' 200 '* ]]
}
